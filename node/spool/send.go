package spool

import (
	"context"
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// The pause after a failure is drawn from minRetry up to a bound, which starts at firstRetry and doubles
	// up to maxRetry.
	minRetry   = 500 * time.Millisecond
	firstRetry = time.Second
	maxRetry   = time.Minute
	// finalFlushTimeout bounds the last attempt to send, when the node stops.
	finalFlushTimeout = 2 * time.Second
)

// Run sends waiting events, oldest first, as soon as they are recorded, until ctx ends. After a failure it
// waits with growing pauses. When ctx has ended, it tries once more to send what waits, for at most
// finalFlushTimeout. What it cannot send stays on disk for the next start. It always returns nil.
func (s *Spool) Run(ctx context.Context) error {
	pauses := backoff.Backoff{Min: minRetry, First: firstRetry, Max: maxRetry}
	for {
		err := s.flush(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			pause := pauses.Next()
			s.cfg.Log.Warn("audit events could not be sent",
				"err", err, "waiting", s.Waiting(), "retry_in", pause)
			backoff.Sleep(ctx, pause) // events that are recorded meanwhile do not end it
			continue
		}
		pauses.Reset()
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
	finalCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalFlushTimeout)
	defer cancel()
	if err := s.flush(finalCtx); err != nil {
		s.cfg.Log.Warn("audit events wait for the next start", "err", err, "waiting", s.Waiting())
	}
	return nil
}

// flush sends everything that waits, in batches, and returns nil when nothing waits any more. It stops at the
// first batch that fails, and returns the error of Config.Send.
func (s *Spool) flush(ctx context.Context) error {
	for {
		batch := s.oldest(authrpc.MaxEvents)
		if len(batch) == 0 {
			return nil
		}
		events, names := s.readEvents(batch) // without those that cannot be read
		if err := s.send(ctx, events, names); err != nil {
			return err
		}
	}
}

// send sends events in one call, and removes their files: names[i] is the file of events[i]. If the auth
// service will never accept the batch, send sends each event in a call of its own. An event that is refused
// then is written to the log and removed: it would keep all later ones from being sent. The error is any
// other error of Config.Send; the remaining events then still wait.
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
		b, _ := json.Marshal(events[0]) // cannot fail: it was read from JSON
		s.cfg.Log.Error("the auth service refused an audit event for good", "err", err, "event", string(b))
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
