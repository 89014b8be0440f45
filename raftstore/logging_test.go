package raftstore

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
)

// The logger of a store already has the key "part". Messages of the libraries must not have that key a second
// time, because a JSON object has each key once.
func TestLibraryLogKeepsThePartOfItsLogger(t *testing.T) {
	var out bytes.Buffer
	log := libraryLog(slog.New(slog.NewJSONHandler(&out, nil)).With("part", "auth"))
	log.Warn("heartbeat timeout reached")
	var line struct{ Part, Library, Level string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line.Part != "auth" || line.Library != "raft" || line.Level != "INFO" {
		t.Errorf("got %s, want part auth, library raft, and the warning at level INFO", out.String())
	}
}
