package main

import (
	"slices"

	"github.com/FerretDB/wire"
	"github.com/FerretDB/wire/wirebson"
)

// Beyond this, reading the whole collection once is cheaper than to look up each id.
const lookups = 1024

// eachID looks documents up one by one where a client asks for many ids and nothing else: FerretDB has an index for
// one id, and compares every document of the collection with each of many. It reports false for any other search.
func eachID(server *peer, command *wirebson.Document) (wire.MsgBody, bool, error) {
	ids, err := manyIDs(command)
	if err != nil || len(ids) == 0 || len(ids) > lookups {
		return nil, false, err
	}
	find := wirebson.MustDocument("find", command.Get("find"), "$db", command.Get("$db"), "limit", int32(1))
	if projection := command.Get("projection"); projection != nil {
		must(0, find.Add("projection", projection))
	}
	found := wirebson.MakeArray(len(ids))
	for _, id := range ids {
		document, failed, err := lookUp(server, find, id)
		switch {
		case err != nil:
			return nil, true, err
		case failed != nil:
			reply, err := wire.NewOpMsg(failed)
			return reply, true, err
		case document != nil:
			must(0, found.Add(document))
		}
	}
	database, _ := command.Get("$db").(string)
	collection, _ := command.Get("find").(string)
	cursor := wirebson.MustDocument("firstBatch", found, "id", int64(0), "ns", database+"."+collection)
	reply, err := wire.NewOpMsg(wirebson.MustDocument("cursor", cursor, "ok", 1.0))
	return reply, true, err
}

// lookUp gives the document of one id, or the reply of a server that failed.
func lookUp(server *peer, find *wirebson.Document, id string) (document, failed *wirebson.Document, err error) {
	must(0, find.Add("filter", wirebson.MustDocument("_id", id)))
	defer find.Remove("filter")
	reply, err := server.askFor(find)
	if err != nil || reply.Get("ok") != 1.0 {
		return nil, reply, err
	}
	batch := reply.Get("cursor").(*wirebson.Document).Get("firstBatch").(*wirebson.Array)
	if batch.Len() == 0 {
		return nil, nil, nil
	}
	return batch.Get(0).(*wirebson.Document), nil, nil
}

// inRanges rewrites a search for a great many ids to one for ranges of ids, each with the few ids in it: FerretDB
// compares every document of the collection with one id after another, and is out of a range after one or two.
func inRanges(command *wirebson.Document, message *wire.OpMsg) (*wire.OpMsg, error) {
	ids, err := manyIDs(command)
	if err != nil || len(ids) <= lookups {
		return message, err
	}
	ranges := wirebson.MakeArray(len(ids)/lookups + 1)
	for len(ids) > 0 {
		part := ids[:min(lookups, len(ids))]
		ids = ids[len(part):]
		few := wirebson.MakeArray(len(part))
		for _, id := range part {
			must(0, few.Add(id))
		}
		within := wirebson.MustDocument("$gte", part[0], "$lte", part[len(part)-1], "$in", few)
		must(0, ranges.Add(wirebson.MustDocument("_id", within)))
	}
	must(0, command.Replace("filter", wirebson.MustDocument("$or", ranges)))
	return wire.NewOpMsg(command)
}

// manyIDs: nil for a search by anything but strings as ids, or in an order, or for a part of what there is.
func manyIDs(command *wirebson.Document) ([]string, error) {
	for _, name := range []string{"sort", "limit", "skip", "batchSize"} {
		if command.Get(name) != nil {
			return nil, nil
		}
	}
	filter, err := decode(command.Get("filter"))
	if err != nil || filter.Len() != 1 {
		return nil, err
	}
	wanted, err := decode(filter.Get("_id"))
	if err != nil || wanted.Len() != 1 {
		return nil, err
	}
	listed, ok := wanted.Get("$in").(wirebson.AnyArray)
	if !ok {
		return nil, nil
	}
	array, err := listed.Decode()
	if err != nil {
		return nil, err
	}
	ids := make([]string, array.Len())
	for i := range ids {
		if ids[i], ok = array.Get(i).(string); !ok {
			return nil, nil
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
