// Package spool answers: which events has auth not confirmed yet?
//
// An event is one file, on disk before Record returns. Run hands the oldest over and removes them once auth
// has stored them; handing one over twice is harmless. The spool is bounded, so a person who is refused over
// and over can not fill a disk, and what they cause never takes the room that sessions need.
package spool

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// Limits of what waits on disk. One event is at most a few kilobytes.
const (
	// MaxEvents is how many events may wait before no session starts any more.
	MaxEvents = 20_000
	// maxRefusals is how many may wait before refusals are only logged, and nothing is forwarded any more:
	// neither keeps sessions out.
	maxRefusals   = MaxEvents / 2
	maxEventBytes = 64 << 10 // of one event
)

const (
	firstRetry        = time.Second
	lastRetry         = time.Minute
	finalFlushTimeout = 2 * time.Second // for the last sending when the node stops
)

const fileSuffix = ".json"

// Config says where events wait and where they go.
type Config struct {
	Dir string // made with mode 0700 where it is missing
	// Send stores events at auth. An error of kind Invalid means that auth will never take them as they are.
	Send func(context.Context, []audit.Event) error
	Now  func() time.Time
	Log  *slog.Logger
}

// Spool keeps events until auth has them.
type Spool struct {
	cfg  Config
	wake chan struct{}

	mu    sync.Mutex // guards what follows
	names []string   // of waiting files, oldest first
	last  int64      // the newest name's number
}

// Open reads what an earlier run left.
func Open(cfg Config) (*Spool, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, diskFault(cfg.Dir, err)
	}
	entries, err := os.ReadDir(cfg.Dir) // in the order of names
	if err != nil {
		return nil, diskFault(cfg.Dir, err)
	}
	s := &Spool{cfg: cfg, wake: make(chan struct{}, 1)}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), "."): // half-written when the machine went down
			_ = os.Remove(filepath.Join(cfg.Dir, e.Name()))
		case strings.HasSuffix(e.Name(), fileSuffix):
			s.names = append(s.names, e.Name())
		}
	}
	return s, nil
}

// Record gives the event its id and returns once it is safe on disk.
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

// checkCapacity refuses what no longer fits. The end of a session always fits: it was paid for at its start.
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
	return fault.New(
		fault.Exhausted,
		"spool.Record",
		fmt.Sprintf("this node holds %d audit events that auth has not taken", len(s.names)),
		"ask an administrator to see why the node cannot reach auth",
	)
}

func diskFault(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(
			err,
			fault.Exhausted,
			"spool.Record",
			"this node's disk is full, so the session cannot be recorded",
			"ask an administrator to free space on the node",
		)
	}
	return fault.Wrap(
		err,
		fault.Internal,
		"spool.Record",
		"this node cannot write its audit events",
		"ask an administrator to look at "+path+" on the node",
	)
}

// Run sends what waits, oldest first, until ctx ends; then it tries once more, briefly.
func (s *Spool) Run(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		err := s.flush(ctx)
		if ctx.Err() != nil {
			break
		}
		again := (<-chan time.Time)(nil)
		wake := s.wake
		if err != nil {
			pause = min(max(2*pause, firstRetry), lastRetry)
			s.cfg.Log.Warn(
				"audit events could not be sent",
				"err",
				err,
				"waiting",
				s.Waiting(),
				"again",
				pause,
			)
			again, wake = time.After(pause/2+mathrand.N(pause/2)), nil
		} else {
			pause = 0
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-wake:
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalFlushTimeout)
	defer cancel()
	if err := s.flush(last); err != nil {
		s.cfg.Log.Warn("audit events are left for the next start", "err", err, "waiting", s.Waiting())
	}
	return nil
}

// Waiting counts the events that auth has not taken.
func (s *Spool) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

func (s *Spool) flush(ctx context.Context) error {
	for {
		s.mu.Lock()
		batch := slices.Clone(s.names[:min(len(s.names), authrpc.MaxEvents)])
		s.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		events, names := s.read(batch)
		if err := s.send(ctx, events, names); err != nil {
			return err
		}
	}
}

// send hands a batch over. When auth refuses it for good, it is sent one by one, and only what is refused by
// itself is given up.
func (s *Spool) send(ctx context.Context, events []audit.Event, names []string) error {
	if len(events) == 0 {
		return nil
	}
	err := s.cfg.Send(ctx, events)
	switch {
	case err == nil:
		s.remove(names...)
		return nil
	case !fault.Is(err, fault.Invalid):
		return err
	case len(events) == 1:
		b, _ := json.Marshal(events[0]) // it was read from JSON
		s.cfg.Log.Error("auth refused an audit event for good", "err", err, "event", string(b))
		s.remove(names...)
		return nil
	}
	for i := range events {
		if err := s.send(ctx, events[i:i+1], names[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// read loads the files. One that cannot be read is set aside, where a person may look at it.
func (s *Spool) read(names []string) (events []audit.Event, ok []string) {
	for _, name := range names {
		var e audit.Event
		path := filepath.Join(s.cfg.Dir, name)
		b, err := os.ReadFile(path)
		if err == nil && len(b) > maxEventBytes {
			err = fmt.Errorf("%d bytes are too many", len(b))
		}
		if err == nil {
			err = json.Unmarshal(b, &e)
		}
		if err != nil {
			s.cfg.Log.Error("a waiting audit event cannot be read and is set aside", "file", path, "err", err)
			_ = os.Rename(path, path+".unreadable")
			s.forget(name)
			continue
		}
		events, ok = append(events, e), append(ok, name)
	}
	return events, ok
}

func (s *Spool) remove(names ...string) {
	for _, name := range names {
		_ = os.Remove(filepath.Join(s.cfg.Dir, name)) // what stays is sent again after a restart
	}
	s.forget(names...)
}

func (s *Spool) forget(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return slices.Contains(names, n) })
}
