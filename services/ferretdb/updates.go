package main

import (
	"github.com/FerretDB/wire"
	"github.com/FerretDB/wire/wirebson"
)

// eachUpdate sends the updates of one command one by one, and answers for all of them as mongod would.
//
// FerretDB 1.x keeps a connection to SQLite for every document matched in one message and waits for ever at the
// hundredth, and it forgets the rest when one update fails.
func eachUpdate(server *peer, command *wirebson.Document, message *wire.OpMsg) (wire.MsgBody, error) {
	updates, err := takeUpdates(command, message)
	if err != nil {
		return nil, err
	}
	result := newResult()
	for index, update := range updates {
		mayMatch, err := narrow(server, command, update)
		if err != nil {
			return nil, err
		}
		if !mayMatch {
			continue
		}
		if err := command.Add("updates", wirebson.MustArray(update)); err != nil {
			return nil, err
		}
		reply, err := server.askFor(command)
		if err != nil {
			return nil, err
		}
		command.Remove("updates")
		if reply.Get("ok") != 1.0 {
			return wire.NewOpMsg(reply)
		}
		failed := result.add(int32(index), reply)
		if failed && command.Get("ordered") != false {
			break
		}
	}
	return wire.NewOpMsg(result.document())
}

func takeUpdates(command *wirebson.Document, message *wire.OpMsg) ([]*wirebson.Document, error) {
	var raw []wirebson.RawDocument
	if inside, ok := command.Get("updates").(wirebson.RawArray); ok {
		array, err := inside.Decode()
		if err != nil {
			return nil, err
		}
		for i := range array.Len() {
			if update, ok := array.Get(i).(wirebson.RawDocument); ok {
				raw = append(raw, update)
			}
		}
		command.Remove("updates")
	}
	for _, section := range message.Sections() {
		if section.Kind == 1 {
			raw = append(raw, section.Documents()...)
		}
	}
	updates := make([]*wirebson.Document, len(raw))
	for i, update := range raw {
		var err error
		if updates[i], err = update.Decode(); err != nil {
			return nil, err
		}
	}
	return updates, nil
}

type result struct {
	matched, modified  int32
	upserted, failures *wirebson.Array
}

func newResult() *result {
	return &result{upserted: wirebson.MakeArray(0), failures: wirebson.MakeArray(0)}
}

// add takes over the reply to one update, and says whether that update failed.
func (r *result) add(index int32, reply *wirebson.Document) bool {
	r.matched += count(reply, "n")
	r.modified += count(reply, "nModified")
	adopt(r.upserted, reply.Get("upserted"), index)
	return adopt(r.failures, reply.Get("writeErrors"), index)
}

func (r *result) document() *wirebson.Document {
	document := wirebson.MustDocument("n", r.matched, "nModified", r.modified, "ok", 1.0)
	for name, array := range map[string]*wirebson.Array{"upserted": r.upserted, "writeErrors": r.failures} {
		if array.Len() > 0 {
			must(0, document.Add(name, array))
		}
	}
	return document
}

func count(reply *wirebson.Document, name string) int32 {
	number, _ := reply.Get(name).(int32)
	return number
}

func adopt(into *wirebson.Array, value any, index int32) bool {
	from, ok := value.(*wirebson.Array)
	if !ok {
		return false
	}
	for i := range from.Len() {
		entry := from.Get(i).(*wirebson.Document)
		must(0, entry.Replace("index", index))
		must(0, into.Add(entry))
	}
	return from.Len() > 0
}
