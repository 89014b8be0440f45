// Package rules answers: which signed rules does this proxy hold, and who wants to hear of newer ones?
//
// A Carrier follows auth's stream of rules. It verifies each set, for the proxy's own early answers, keeps
// the last good one on disk, and hands the signed bytes to whoever follows, which is every tunnel. It can
// sign nothing: nodes verify again.
package rules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
)

const (
	// silenceTimeout is how long auth may say nothing before it is asked anew; a head comes every 10 s.
	silenceTimeout = time.Minute
	// Back-off between attempts to reach auth, with full jitter.
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 15 * time.Second
	// saveEvery is how old the head on disk may get while no document changes.
	saveEvery = 5 * time.Minute
)

// Config says what a Carrier needs.
type Config struct {
	Pin   identity.Pin
	First rules.Set        // what this machine got when it joined; empty when there is one on disk
	Path  string           // file of the last good set
	Auth  *authrpc.Client  // required
	Now   func() time.Time // zero: time.Now
	Log   *slog.Logger     // required
}

// Carrier holds the newest verified set. It is safe for concurrent use.
type Carrier struct {
	cfg   Config
	saved rules.Head // on disk; Run's own

	mu          sync.Mutex // guards what follows
	trust       *rules.Trust
	push        tunnel.RulesPush
	subscribers map[chan tunnel.RulesPush]struct{}
}

// New verifies the newest of what is on disk and cfg.First. It fails when neither is good.
func New(cfg Config) (*Carrier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	trust, err := newest(cfg)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Unavailable,
			"proxy.rules",
			"the proxy has no rules that its cluster signed",
			"remove the proxy's data directory and join it again with a new token",
		)
	}
	c := &Carrier{cfg: cfg, subscribers: map[chan tunnel.RulesPush]struct{}{}}
	return c, c.publish(trust)
}

func newest(cfg Config) (*rules.Trust, error) {
	disk, errDisk := load(cfg.Path, cfg.Pin)
	first, errFirst := rules.Open(cfg.Pin, cfg.First)
	switch {
	case errDisk != nil && errFirst != nil:
		return nil, errors.Join(errDisk, errFirst)
	case errDisk != nil:
		return first, nil
	case errFirst != nil:
		return disk, nil
	}
	if later, err := disk.Advance(cfg.First); err == nil {
		return later, nil
	}
	return disk, nil
}

// Current is the newest verified set; never nil.
func (c *Carrier) Current() *rules.Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

// Subscribe yields the newest set, at once and after each change; one that is not taken in time is replaced
// by the next. stop ends it.
func (c *Carrier) Subscribe() (news <-chan tunnel.RulesPush, stop func()) {
	ch := make(chan tunnel.RulesPush, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	ch <- c.push
	c.subscribers[ch] = struct{}{}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers, ch)
	}
}

func (c *Carrier) publish(trust *rules.Trust) error {
	n, err := pushOf(trust)
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trust, c.push = trust, n
	for ch := range c.subscribers {
		select { // only set sends, under mu: after taking the old one there is room
		case <-ch:
		default:
		}
		ch <- n
	}
	return nil
}

func pushOf(trust *rules.Trust) (n tunnel.RulesPush, err error) {
	if n.Set, err = trust.Set().Encode(); err != nil {
		return n, err
	}
	if n.Head, err = trust.Set().EncodeHead(); err != nil {
		return n, err
	}
	n.DocsDigest, err = trust.Head.Fingerprint()
	return n, err
}

// Run follows auth until ctx ends. Without auth the last good set stays.
func (c *Carrier) Run(ctx context.Context) error {
	for wait := firstBackoff; ctx.Err() == nil; {
		heard, err := c.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if heard {
			wait = firstBackoff
		}
		pause := rand.N(wait)
		c.cfg.Log.Warn(
			"auth does not tell the rules; the last good ones stay",
			"err",
			err,
			"age",
			c.Current().Age(c.cfg.Now()).Round(time.Second),
			"retry",
			pause,
		)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		wait = min(2*wait, maxBackoff)
	}
	return nil
}

// watch reads one stream until it ends or falls quiet; heard tells whether it brought anything.
func (c *Carrier) watch(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(silenceTimeout, func() { cancel(errors.New("auth fell quiet")) })
	defer watch.Stop()
	since := c.Current().Head.Time
	err = authrpc.Stream(
		ctx,
		c.cfg.Auth,
		authrpc.WatchRules,
		authrpc.WatchRulesRequest{Since: since},
		func(u authrpc.RulesUpdate) error {
			watch.Reset(silenceTimeout)
			heard = true
			c.apply(u.Set)
			return nil
		},
	)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return heard, err
}

// apply moves on to a newer set. One that does not verify, or is older, changes nothing.
func (c *Carrier) apply(s rules.Set) {
	next, err := c.Current().Advance(s)
	if err == nil {
		err = c.publish(next)
	}
	if err != nil {
		c.cfg.Log.Warn("refused rules from auth", "err", err)
		return
	}
	c.save(next)
}
