// Package spool answers: which audit events has the auth service not confirmed yet?
//
// An event is one file, which is on disk before Record returns. Run sends the oldest ones and removes them
// once the auth service has stored them; an event that is sent twice does no harm. The spool is bounded, so
// that a user who is refused again and again cannot fill the disk, and refusals never use the capacity of
// sessions.
package spool

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// Limits of what waits on disk.
const (
	// MaxEvents is how many events may wait before no session starts any more.
	MaxEvents = 20_000
	// maxRefusals is how many may wait before refusals are only logged and nothing is forwarded any more. The
	// rest of the capacity is for sessions.
	maxRefusals = MaxEvents / 2
	// maxEventBytes bounds one file. An event has at most a few kilobytes.
	maxEventBytes = 64 << 10
)

// fileSuffix ends the names of waiting events. A name begins with a number: names sort by age.
const fileSuffix = ".json"

// Config says where events wait and where they go.
type Config struct {
	// Dir is made with mode 0700 if it is missing.
	Dir string
	// Send stores events at the auth service. A fault of kind Invalid means that it will never accept them.
	Send func(context.Context, []audit.Event) error
	Now  func() time.Time
	Log  *slog.Logger
}

// Spool keeps events until the auth service has stored them. Its methods may be called by several goroutines
// at once; Run is called once.
type Spool struct {
	cfg  Config
	wake chan struct{} // has a value when events were recorded since Run last received from it

	mu    sync.Mutex // guards the fields below, and is held while an event is written
	names []string   // files that wait, oldest first
	last  int64      // the number of the newest name
}

// Open opens the spool with the events that an earlier run left.
func Open(cfg Config) (*Spool, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, diskFault(cfg.Dir, err)
	}
	entries, err := os.ReadDir(cfg.Dir) // sorted by name
	if err != nil {
		return nil, diskFault(cfg.Dir, err)
	}
	s := &Spool{cfg: cfg, wake: make(chan struct{}, 1)}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), "."): // half written when the machine stopped
			_ = os.Remove(filepath.Join(cfg.Dir, e.Name()))
		case strings.HasSuffix(e.Name(), fileSuffix):
			s.names = append(s.names, e.Name())
		}
	}
	return s, nil
}

// Record gives the event its id, and returns once it is safe on disk. It fails with Exhausted if too many
// events wait or the disk is full, and for an event that is invalid.
func (s *Spool) Record(e audit.Event) error {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails since Go 1.24
	e.ID = hex.EncodeToString(id[:])
	if err := e.Check(); err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkCapacity(e.Code); err != nil {
		return err
	}
	s.last = max(s.last+1, s.cfg.Now().UnixNano())
	name := fmt.Sprintf("%020d-%s%s", s.last, e.ID[:8], fileSuffix)
	if err := durable.WriteFile(filepath.Join(s.cfg.Dir, name), b); err != nil {
		return diskFault(s.cfg.Dir, err)
	}
	s.names = append(s.names, name)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// checkCapacity refuses an event for which there is no capacity. The end of a session is always accepted: its
// start was. It is called with mu held.
func (s *Spool) checkCapacity(code audit.Code) error {
	limit := MaxEvents
	switch code {
	case audit.SessionEnded:
		return nil
	case audit.SessionRefused, audit.ForwardStarted:
		limit = maxRefusals
	}
	if len(s.names) < limit {
		return nil
	}
	msg := fmt.Sprintf("this node holds %d audit events that the auth service has not stored", len(s.names))
	const remedy = "ask an administrator why the node cannot reach the auth service"
	return fault.New(fault.Exhausted, "spool.Record", msg, remedy)
}

// Waiting is how many events the auth service has not stored.
func (s *Spool) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// oldest returns the names of the oldest events, at most n.
func (s *Spool) oldest(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.names[:min(len(s.names), n)])
}

// read loads events. It sets a file that cannot be read aside, under another name. names are the files of the
// events that it returns.
func (s *Spool) read(files []string) (events []audit.Event, names []string) {
	for _, name := range files {
		path := filepath.Join(s.cfg.Dir, name)
		e, err := readEvent(path)
		if err != nil {
			s.cfg.Log.Error("a waiting audit event cannot be read and is set aside", "file", path, "err", err)
			_ = os.Rename(path, path+".unreadable")
			s.forget(name)
			continue
		}
		events, names = append(events, e), append(names, name)
	}
	return events, names
}

func readEvent(path string) (e audit.Event, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	if len(b) > maxEventBytes {
		return e, fmt.Errorf("it has %d bytes, more than %d", len(b), maxEventBytes)
	}
	return e, json.Unmarshal(b, &e)
}

// remove deletes events that are stored. A file that stays is sent again after a restart.
func (s *Spool) remove(names ...string) {
	for _, name := range names {
		_ = os.Remove(filepath.Join(s.cfg.Dir, name))
	}
	s.forget(names...)
}

// forget drops names from the list of waiting events.
func (s *Spool) forget(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return slices.Contains(names, n) })
}

// diskFault says what to do about an error of the disk.
func diskFault(path string, err error) error {
	const op = "spool.Record"
	switch {
	case err == nil:
		return nil
	case durable.IsDiskFull(err):
		const msg = "this node's disk is full, so the session cannot be recorded"
		return fault.Wrap(err, fault.Exhausted, op, msg, "ask an administrator to free space on the node")
	}
	const msg = "this node cannot write its audit events"
	return fault.Wrap(err, fault.Internal, op, msg, "ask an administrator to look at "+path+" on the node")
}
