// Package spool answers: which audit events has the auth service not confirmed yet?
//
// An event is one file, which is on disk before Record returns. Run sends the oldest ones and removes their
// files when the auth service has stored them. Each event has a place: the random id of this run of the
// spool, and a number, which grows by one. So an event that is sent twice does no harm, and the auth service
// sees whether one is missing. The numbers need no file of their own, and a copy of the directory that runs
// elsewhere, or comes back from a backup, cannot repeat the places of new events.
//
// The number of files is bounded, so that a user who is refused again and again cannot fill the disk. Half of
// it is reserved for sessions, so that refusals cannot keep sessions from starting.
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
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Limits of what waits on disk.
const (
	// MaxEvents is how many events may wait. When it is reached, Record refuses the start of a session.
	MaxEvents = 20_000
	// maxRefusals is how many events of all kinds may wait before Record refuses those about refusals and
	// forwards.
	maxRefusals = MaxEvents / 2
	// maxBatchBytes bounds the files that are sent in one call. It is well under what the auth service reads.
	maxBatchBytes = authrpc.MaxEventsBytes / 2
)

// fileSuffix ends the names of the files of waiting events. A name begins with a number that grows with each
// event, so that names sort by age.
const fileSuffix = ".json"

// Config says where events wait and where they go.
type Config struct {
	// Dir is the directory of the files. Open creates it with mode 0700 if it is missing.
	Dir string
	// Send returns nil when the auth service has stored all of these events. A fault of kind Invalid means
	// that it will never accept them; after any other error they are sent again.
	Send func(context.Context, []audit.Event) error
	Now  func() time.Time
	Log  *slog.Logger
}

// Spool keeps events until the auth service has stored them. Its methods may be called by several goroutines
// at once; Run is called once.
type Spool struct {
	cfg      Config
	instance identity.InstanceID // of this run, drawn by Open
	wake     chan struct{}       // has a value when events were recorded since Run last received from it

	mu     sync.Mutex // guards the fields below, and is held while an event is written
	names  []string   // files that wait, oldest first
	last   int64      // the number in the newest name
	number uint64     // of the newest event; a number is used up also if the event could not be written
}

// Open returns the spool with the events that an earlier run left in Config.Dir. It reads their names and not
// their content. It starts nothing. The error is a fault about the directory.
func Open(cfg Config) (*Spool, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, diskFault(cfg.Dir, err)
	}
	entries, err := os.ReadDir(cfg.Dir) // sorted by name
	if err != nil {
		return nil, diskFault(cfg.Dir, err)
	}
	s := &Spool{cfg: cfg, instance: identity.NewInstanceID(), wake: make(chan struct{}, 1)}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case strings.HasPrefix(name, "."): // half written when the machine stopped: Record had not returned
			_ = os.Remove(filepath.Join(cfg.Dir, name))
		case strings.HasSuffix(name, fileSuffix):
			s.names = append(s.names, name)
			var number int64 // stays 0 for a name of another form
			_, _ = fmt.Sscanf(name, "%d-", &number)
			s.last = max(s.last, number)
		} // others, as those that readEvents set aside, stay as they are
	}
	return s, nil
}

// newID draws 32 hex digits.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(id[:])
}

// Record gives the event a random id and its place, and returns nil when the event is safe on disk. It does
// not wait until the event is sent. The error is a fault: of kind Exhausted if too many events wait or the
// disk is full, Internal if the disk cannot be written, or Invalid for an event that Event.Encode refuses.
func (s *Spool) Record(event audit.Event) error {
	event.ID = newID()
	// mu is held during the write, so that names are added in the order of their numbers.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkCapacity(event.Code); err != nil {
		return err
	}
	event.Spool, event.Number = s.instance, s.number+1
	b, err := event.Encode()
	if err != nil {
		return err
	}
	s.number++
	s.last = max(s.last+1, s.cfg.Now().UnixNano()) // grows even if the clock is set back
	name := fmt.Sprintf("%020d-%s%s", s.last, event.ID[:8], fileSuffix)
	if err := durable.WriteFile(filepath.Join(s.cfg.Dir, name), b); err != nil {
		return diskFault(s.cfg.Dir, err)
	}
	s.names = append(s.names, name)
	select {
	case s.wake <- struct{}{}:
	default: // Run will look anyway
	}
	return nil
}

// checkCapacity returns a fault of kind Exhausted if too many events wait for one of this code. The end of a
// session is always accepted, because its start was: the number of open sessions bounds how many there are.
// It is called with mu held.
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
	return spoolFull.New("spool.Record", fault.Args{"count": len(s.names)})
}

// Waiting returns how many events wait on disk.
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

// readEvents reads files of waiting events, as many as fit into one call. It returns the events and, at the
// same index, the names of their files. A file that cannot be read is logged, renamed so that it is not sent,
// and left out: it stays on disk for an administrator.
func (s *Spool) readEvents(files []string) (events []audit.Event, names []string) {
	total := 0
	for _, name := range files {
		path := filepath.Join(s.cfg.Dir, name)
		event, size, err := readEvent(path)
		if err == nil {
			if total += size; total > maxBatchBytes && len(events) > 0 {
				break
			}
		}
		if err != nil {
			s.cfg.Log.Error("a waiting audit event cannot be read and is set aside", "file", path, "err", err)
			_ = os.Rename(path, path+".unreadable")
			s.forget(name)
			continue
		}
		events, names = append(events, event), append(names, name)
	}
	return events, names
}

// readEvent reads one file and returns the event and the size of the file. The error says why it holds no
// event that can be sent.
func readEvent(path string) (event audit.Event, size int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return event, 0, err
	}
	if len(b) > audit.MaxBytes {
		return event, 0, fmt.Errorf("it has %d bytes, more than %d", len(b), audit.MaxBytes)
	}
	if err := json.Unmarshal(b, &event); err != nil {
		return event, 0, err
	}
	return event, len(b), event.Check()
}

// remove deletes the files of events that need not be sent any more. A file that cannot be deleted is sent
// again after a restart.
func (s *Spool) remove(names ...string) {
	for _, name := range names {
		_ = os.Remove(filepath.Join(s.cfg.Dir, name))
	}
	s.forget(names...)
}

// forget removes names from the list of waiting events. It does not touch the files.
func (s *Spool) forget(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return slices.Contains(names, n) })
}

// diskFault returns the fault for an error of the disk at path: of kind Exhausted if the disk is full,
// otherwise of kind Internal. It returns nil for nil.
func diskFault(path string, err error) error {
	const op = "spool.Record"
	switch {
	case err == nil:
		return nil
	case durable.IsDiskFull(err):
		return spoolDiskFull.Wrap(err, op)
	}
	return spoolUnwritable.Wrap(err, op, fault.Args{"folder": path})
}
