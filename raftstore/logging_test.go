package raftstore

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
)

// Whoever keeps a store names the part it belongs to: what the libraries say must not name it again, for JSON
// has each key once.
func TestLibraryLogKeepsThePartOfItsLogger(t *testing.T) {
	var out bytes.Buffer
	log := libraryLog(slog.New(slog.NewJSONHandler(&out, nil)).With("part", "auth"))
	log.Warn("heartbeat timeout reached")
	var line struct{ Part, Library, Level string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Part != "auth" ||
		line.Library != "raft" ||
		line.Level != "INFO" {
		t.Errorf(
			"got %s (%v), want the part and the library apart, a warning as information",
			out.String(),
			err,
		)
	}
}
