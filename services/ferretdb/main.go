// Command ferretdb serves FerretDB, kept in SQLite files, as a stand-in for mongod.
//
// FerretDB 1.x reads a document and writes it back in two steps, so two updates of one document can both succeed.
// mongod promises that they can't. Here writes go one at a time; a read is one SELECT and needs no more.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

// In the folder that the server is started in: a whole path may be longer than a socket's name can be.
const socket = "mongodb.sock"

func main() {
	plain := flag.String("listen", "", "address for plain connections")
	secure := flag.String("listen-tls", "", "address for TLS connections")
	certificate := flag.String("certificate", "", "the server's certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	data := flag.String("data", "", "folder of the SQLite files")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}

	server := must(ferretdb.New(&ferretdb.Config{
		Listener: ferretdb.ListenerConfig{Unix: socket},
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Handler:  "sqlite",
		// like mongod's journal: outlives the process at once, and the machine a moment later
		SQLiteURL: "file:" + *data + "/?_pragma=synchronous(normal)",
	}))
	pair := must(tls.LoadX509KeyPair(*certificate, *key))
	gate := &gate{indexes: indexes{folder: *data, made: map[string]bool{}}}
	go gate.serve(must(net.Listen("tcp", *plain)))
	go gate.serve(must(tls.Listen("tcp", *secure, &tls.Config{Certificates: []tls.Certificate{pair}})))
	if err := server.Run(ctx); err != nil {
		log.Print(err)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
