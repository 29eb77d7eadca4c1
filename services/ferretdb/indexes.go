package main

import (
	"database/sql"
	"errors"
	"fmt"
	"log"
	"path/filepath"

	"github.com/FerretDB/wire/wirebson"
)

// indexes gives every collection an index on _id that is used: FerretDB 1.x makes one on ->"_id" and looks documents up
// by ->'$._id', which are different expressions to SQLite.
type indexes struct {
	folder string
	made   map[string]bool
}

func (i *indexes) follow(command *wirebson.Document) {
	switch command.Command() {
	case "drop", "dropDatabase", "renameCollection":
		clear(i.made)
		return
	}
	database, _ := command.Get("$db").(string)
	collection, ok := command.Get(command.Command()).(string)
	if !ok || i.made[database+"."+collection] {
		return
	}
	switch err := i.make(database, collection); {
	case err == nil:
		i.made[database+"."+collection] = true
	case !errors.Is(err, sql.ErrNoRows):
		log.Printf("no index on %s.%s: %v", database, collection, err)
	}
}

func (i *indexes) make(database, collection string) error {
	file := filepath.Join(i.folder, database+".sqlite")
	db, err := sql.Open("sqlite", "file:"+file+"?mode=rw&_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	var table string
	row := db.QueryRow("SELECT table_name FROM _ferretdb_collections WHERE name = ?", collection)
	if err := row.Scan(&table); err != nil {
		return err
	}
	_, err = db.Exec(fmt.Sprintf(`CREATE INDEX IF NOT EXISTS "%[1]s__used" ON "%[1]s" (_ferretdb_sjson->'$._id')`, table))
	return err
}
