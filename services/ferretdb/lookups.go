package main

import (
	"slices"

	"github.com/FerretDB/wire"
	"github.com/FerretDB/wire/wirebson"
)

// A range costs as much as two hundred comparisons.
const lookupSize = 1024

// inRanges rewrites a search for many ids to one for ranges of ids, each with the few ids in it: FerretDB compares
// every document of the collection with one id after another, and is out of a range after one or two.
func inRanges(command *wirebson.Document, message *wire.OpMsg) (*wire.OpMsg, error) {
	filter, err := decode(command.Get("filter"))
	if err != nil || filter.Get("$or") != nil {
		return message, err
	}
	ids, err := manyIDs(filter)
	if err != nil || ids == nil {
		return message, err
	}
	slices.Sort(ids)
	ranges := wirebson.MakeArray(len(ids)/lookupSize + 1)
	for len(ids) > 0 {
		part := ids[:min(lookupSize, len(ids))]
		ids = ids[len(part):]
		few := wirebson.MakeArray(len(part))
		for _, id := range part {
			must(0, few.Add(id))
		}
		within := wirebson.MustDocument("$gte", part[0], "$lte", part[len(part)-1], "$in", few)
		must(0, ranges.Add(wirebson.MustDocument("_id", within)))
	}
	filter.Remove("_id")
	must(0, filter.Add("$or", ranges))
	must(0, command.Replace("filter", filter))
	return wire.NewOpMsg(command)
}

// manyIDs: nil where there are few, or where the filter asks for anything but strings.
func manyIDs(filter *wirebson.Document) ([]string, error) {
	wanted, err := decode(filter.Get("_id"))
	if err != nil || wanted.Len() != 1 {
		return nil, err
	}
	listed, ok := wanted.Get("$in").(wirebson.AnyArray)
	if !ok {
		return nil, nil
	}
	array, err := listed.Decode()
	if err != nil || array.Len() <= lookupSize {
		return nil, err
	}
	ids := make([]string, array.Len())
	for i := range ids {
		if ids[i], ok = array.Get(i).(string); !ok {
			return nil, nil
		}
	}
	return ids, nil
}
