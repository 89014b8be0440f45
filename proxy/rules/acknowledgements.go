package rules

import (
	"context"
	"crypto"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const (
	// batchPause is the least time between two calls of the auth service. What comes after a quiet time is
	// sent at once; what comes meanwhile shares the next call.
	batchPause = 100 * time.Millisecond
	// sourcePause is the least time between two acknowledgements of one tunnel. Of those that come faster,
	// the newest is sent.
	sourcePause = 200 * time.Millisecond
)

// AcknowledgementsConfig says what Acknowledgements needs; all of it is required.
type AcknowledgementsConfig struct {
	Rules *Carrier           // the rules by which this proxy decides
	ID    identity.MachineID // of this proxy
	// Key returns the key of this proxy's service certificate.
	Key  func() (crypto.Signer, error)
	Auth *authrpc.Client
	Now  func() time.Time
	Log  *slog.Logger
}

// Acknowledgements passes on to the auth service by which rules the nodes of this proxy decide, as they have
// signed it, and the same of this proxy. It verifies nothing. Of each tunnel it keeps the newest, while the
// auth service is away too, and until the tunnel ends: the auth service has all of it in memory alone, and
// gets it again when it has restarted. Its methods may be called by several goroutines at once.
type Acknowledgements struct {
	cfg AcknowledgementsConfig
	due chan struct{} // has an element when something may be due
	own *source       // of this proxy

	// These belong to the goroutine of Run: the head that own acknowledges, and the term of the last head.
	acknowledged rules.Head
	term         uint64

	mu      sync.Mutex // guards sources and their fields
	sources map[*source]struct{}
}

// source is where acknowledgements come from: a tunnel, or this proxy.
type source struct {
	machine identity.MachineID
	newest  rules.Signed
	due     bool      // newest has not been sent
	sent    time.Time // when something was last sent
}

// NewAcknowledgements makes an empty set. It starts nothing.
func NewAcknowledgements(cfg AcknowledgementsConfig) *Acknowledgements {
	own := &source{machine: cfg.ID}
	return &Acknowledgements{
		cfg:     cfg,
		due:     make(chan struct{}, 1),
		own:     own,
		sources: map[*source]struct{}{own: {}},
	}
}

// Source returns where a tunnel hands over what its node acknowledges, in its wire form. What cannot be read,
// or is too large, is dropped. end forgets it; nothing may be taken after that.
func (a *Acknowledgements) Source(node identity.MachineID) (take func(acknowledgement []byte), end func()) {
	s := &source{machine: node}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sources[s] = struct{}{}
	take = func(acknowledgement []byte) {
		var signed rules.Signed
		if json.Unmarshal(acknowledgement, &signed) != nil {
			return
		}
		if n := len(signed.Payload); n > 0 && n <= rules.MaxAcknowledgementBytes {
			a.put(s, signed)
		}
	}
	end = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sources, s)
	}
	return take, end
}

// put makes an acknowledgement the newest of its source, and asks Run to send it.
func (a *Acknowledgements) put(s *source, signed rules.Signed) {
	a.mu.Lock()
	s.newest, s.due = signed, true
	a.mu.Unlock()
	select {
	case a.due <- struct{}{}:
	default:
	}
}

// Run sends what is due until ctx ends, and then returns nil. After an error it tries again with growing
// pauses. It is called once.
func (a *Acknowledgements) Run(ctx context.Context) error {
	heads, unsubscribe := a.cfg.Rules.Subscribe()
	defer unsubscribe()
	pauses := backoff.Backoff{First: firstBackoff, Max: maxBackoff}
	for ctx.Err() == nil {
		a.followRules()
		batch, more := a.takeDue(time.Now())
		if len(batch) == 0 && !more {
			select {
			case <-ctx.Done():
			case <-heads:
			case <-a.due:
			}
			continue
		}
		pause := batchPause
		if len(batch) > 0 {
			if err := a.send(ctx, batch); err == nil {
				pauses.Reset()
			} else if ctx.Err() == nil {
				pause = max(pause, pauses.Next())
				a.cfg.Log.Warn("cannot tell the auth service which rules are in force",
					"err", err, "retry_in", pause)
			}
		}
		backoff.Sleep(ctx, pause)
	}
	return nil
}

// followRules acknowledges the rules by which this proxy decides, if other documents are in force. If the
// head is of another term, it makes everything due: then another run of the auth service signs the rules,
// which has heard nothing.
func (a *Acknowledgements) followRules() {
	trust := a.cfg.Rules.Current()
	if term := trust.Head.Sequence.Term; term != a.term {
		a.term = term
		a.mu.Lock()
		for s := range a.sources {
			s.due = s.newest.Payload != nil
		}
		a.mu.Unlock()
	}
	if rules.SameDocuments(a.acknowledged, trust.Head) {
		return
	}
	key, err := a.cfg.Key()
	if err == nil {
		var signed rules.Signed
		if signed, err = trust.Acknowledge(key, a.cfg.ID, a.cfg.Now()); err == nil {
			a.put(a.own, signed)
		}
	}
	if err != nil {
		a.cfg.Log.Warn("the rules in force cannot be acknowledged", "err", err)
	}
	a.acknowledged = trust.Head // after an error too: the next change is tried
}

// takeDue returns what may be sent now, at most as much as one call takes, and notes that it is sent. more
// reports whether something else is due, or will be after sourcePause.
func (a *Acknowledgements) takeDue(now time.Time) (batch []*source, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.sources {
		switch {
		case !s.due:
		case len(batch) == authrpc.MaxAcknowledgements, now.Sub(s.sent) < sourcePause:
			more = true
		default:
			s.due, s.sent = false, now
			batch = append(batch, s)
		}
	}
	return batch, more
}

// send sends the newest acknowledgements of the sources. If it fails, they are due again.
func (a *Acknowledgements) send(ctx context.Context, batch []*source) error {
	var req authrpc.ReportAcknowledgementsRequest
	a.mu.Lock()
	for _, s := range batch {
		req.Acknowledgements = append(req.Acknowledgements,
			authrpc.MachineAcknowledgement{Machine: s.machine, Signed: s.newest})
	}
	a.mu.Unlock()
	_, err := authrpc.Call(ctx, a.cfg.Auth, authrpc.ReportAcknowledgements, req)
	if err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, s := range batch {
			s.due = true
		}
	}
	return err
}
