package main

import (
	"bufio"
	"errors"
	"log"
	"net"
	"sync"

	"github.com/FerretDB/wire"
	"github.com/FerretDB/wire/wirebson"
)

var reads = map[string]bool{
	"aggregate": true, "buildInfo": true, "collStats": true, "count": true, "dbStats": true, "distinct": true,
	"endSessions": true, "find": true, "getMore": true, "hello": true, "isMaster": true, "ismaster": true,
	"killCursors": true, "listCollections": true, "listDatabases": true, "listIndexes": true, "ping": true,
}

// gate passes messages to the server behind the socket, and all but reads one at a time.
type gate struct {
	writes  sync.Mutex
	indexes indexes
}

func (g *gate) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Print(err)
			return
		}
		go g.converse(client)
	}
}

func (g *gate) converse(client net.Conn) {
	defer client.Close()
	connection, err := net.Dial("unix", socket)
	if err != nil {
		log.Print(err)
		return
	}
	defer connection.Close()
	asking, server := newPeer(client), newPeer(connection)
	for {
		header, body, err := wire.ReadMessage(asking.in)
		if err != nil {
			return
		}
		silent := takeMoreToCome(body)
		reply, err := g.answer(server, header, body)
		if err != nil {
			return
		}
		if silent {
			continue
		}
		if err = asking.send(header.RequestID, reply); err != nil {
			return
		}
	}
}

// answer: anything older than OP_MSG is a handshake.
func (g *gate) answer(server *peer, header *wire.MsgHeader, body wire.MsgBody) (wire.MsgBody, error) {
	message, ok := body.(*wire.OpMsg)
	if !ok {
		return server.forward(header, body)
	}
	command, err := message.RawSection0().Decode()
	if err != nil {
		return nil, err
	}
	if command.Command() == "find" {
		if reply, done, err := eachID(server, command); done || err != nil {
			return reply, err
		}
		if message, err = inRanges(command, message); err != nil {
			return nil, err
		}
	}
	if reads[command.Command()] {
		return server.ask(message)
	}
	g.writes.Lock()
	defer g.writes.Unlock()
	defer g.indexes.follow(command)
	if command.Command() == "update" {
		return eachUpdate(server, command, message)
	}
	return server.ask(message)
}

// takeMoreToCome clears the flag of a client that wants no reply: FerretDB replies all the same.
func takeMoreToCome(body wire.MsgBody) bool {
	message, ok := body.(*wire.OpMsg)
	if !ok || !message.Flags.FlagSet(wire.OpMsgMoreToCome) {
		return false
	}
	message.Flags &^= wire.OpMsgFlags(wire.OpMsgMoreToCome)
	return true
}

type peer struct {
	in  *bufio.Reader
	out *bufio.Writer
}

func newPeer(connection net.Conn) *peer {
	return &peer{in: bufio.NewReader(connection), out: bufio.NewWriter(connection)}
}

func (p *peer) forward(header *wire.MsgHeader, body wire.MsgBody) (wire.MsgBody, error) {
	if err := wire.WriteMessage(p.out, header, body); err != nil {
		return nil, err
	}
	if err := p.out.Flush(); err != nil {
		return nil, err
	}
	_, reply, err := wire.ReadMessage(p.in)
	return reply, err
}

func (p *peer) ask(message *wire.OpMsg) (wire.MsgBody, error) {
	if err := p.send(0, message); err != nil {
		return nil, err
	}
	_, reply, err := wire.ReadMessage(p.in)
	return reply, err
}

func (p *peer) askFor(command *wirebson.Document) (*wirebson.Document, error) {
	message, err := wire.NewOpMsg(command)
	if err != nil {
		return nil, err
	}
	body, err := p.ask(message)
	if err != nil {
		return nil, err
	}
	reply, ok := body.(*wire.OpMsg)
	if !ok {
		return nil, errors.New("not answered in kind")
	}
	return reply.RawSection0().DecodeDeep()
}

func (p *peer) send(inReplyTo int32, body wire.MsgBody) error {
	content, err := body.MarshalBinary()
	if err != nil {
		return err
	}
	code := wire.OpCodeMsg
	if _, old := body.(*wire.OpReply); old {
		code = wire.OpCodeReply
	}
	size := int32(len(content) + wire.MsgHeaderLen)
	header := &wire.MsgHeader{MessageLength: size, RequestID: 1, ResponseTo: inReplyTo, OpCode: code}
	if err := wire.WriteMessage(p.out, header, body); err != nil {
		return err
	}
	return p.out.Flush()
}
