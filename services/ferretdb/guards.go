package main

import (
	"strings"

	"github.com/FerretDB/wire/wirebson"
)

// narrow rewrites an update of {_id: …, revision: …} to one of {_id: …}, once the rest of the filter is known to hold:
// FerretDB has an index for the second, and reads the whole collection for the first. Writes come one at a time, so
// what was seen still holds. It reports false for an update that is known to match nothing.
func narrow(server *peer, command, update *wirebson.Document) (bool, error) {
	filter, err := decode(update.Get("q"))
	if err != nil || !isGuarded(filter) {
		return true, err
	}
	id := wirebson.MustDocument("_id", filter.Get("_id"))
	found, err := findOne(server, command, id)
	if err != nil {
		return true, err
	}
	upsert := update.Get("upsert") == true
	switch {
	case found == nil && !upsert:
		return false, nil
	case found == nil && !isReplacement(update):
		return true, nil
	case found != nil && !isComparable(found, filter):
		return true, nil
	case found != nil && !holds(found, filter):
		return upsert, nil
	}
	return true, update.Replace("q", id)
}

func decode(value any) (*wirebson.Document, error) {
	if document, ok := value.(wirebson.AnyDocument); ok {
		return document.Decode()
	}
	return wirebson.MakeDocument(0), nil
}

// isGuarded: an _id FerretDB has an index for, and plain values beside it.
func isGuarded(filter *wirebson.Document) bool {
	if _, ok := filter.Get("_id").(string); !ok || filter.Len() < 2 {
		return false
	}
	for _, name := range filter.FieldNames() {
		if strings.HasPrefix(name, "$") || strings.Contains(name, ".") || !isPlain(filter.Get(name)) {
			return false
		}
	}
	return true
}

func isPlain(value any) bool {
	switch value.(type) {
	case string, bool, int32, int64:
		return true
	}
	return false
}

func isReplacement(update *wirebson.Document) bool {
	content, err := decode(update.Get("u"))
	return err == nil && !strings.HasPrefix(content.Command(), "$")
}

func findOne(server *peer, command, filter *wirebson.Document) (*wirebson.Document, error) {
	collection, database := command.Get("update"), command.Get("$db")
	find := wirebson.MustDocument("find", collection, "filter", filter, "limit", int32(1), "$db", database)
	reply, err := server.askFor(find)
	if err != nil {
		return nil, err
	}
	cursor, ok := reply.Get("cursor").(*wirebson.Document)
	if !ok {
		return nil, nil
	}
	batch, ok := cursor.Get("firstBatch").(*wirebson.Array)
	if !ok || batch.Len() == 0 {
		return nil, nil
	}
	return batch.Get(0).(*wirebson.Document), nil
}

// isComparable: an array, say, matches by any of its elements, which is left to FerretDB.
func isComparable(found, filter *wirebson.Document) bool {
	for _, name := range filter.FieldNames() {
		value := found.Get(name)
		if _, isFloat := value.(float64); value != nil && !isFloat && !isPlain(value) {
			return false
		}
	}
	return true
}

func holds(found, filter *wirebson.Document) bool {
	for _, name := range filter.FieldNames() {
		if widened(found.Get(name)) != widened(filter.Get(name)) {
			return false
		}
	}
	return true
}

func widened(value any) any {
	switch number := value.(type) {
	case int32:
		return int64(number)
	case float64:
		if number == float64(int64(number)) {
			return int64(number)
		}
	}
	return value
}
