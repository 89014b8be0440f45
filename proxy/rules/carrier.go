// Package rules answers: which signed rules does this proxy hold, and how do nodes get newer ones?
//
// A Carrier follows the stream of rules from the auth service. It verifies each set, because the proxy
// decides by the rules itself, saves the last valid one on disk, and passes the signed bytes on to every
// tunnel. It can sign nothing: nodes verify the rules again.
package rules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/rulesfile"
	"github.com/threshold-access/threshold/internal/tunnel"
)

const (
	// silenceTimeout is how long the stream may be silent before it is opened again. A head comes every 10 s.
	silenceTimeout = time.Minute
	// Bounds of the pauses between two attempts to open the stream.
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 15 * time.Second
)

// Config says what a Carrier needs. A field is required unless its comment says what the zero value means.
type Config struct {
	// Pin is the hash of the cluster root, from which the rules are verified.
	Pin identity.Pin
	// First are the rules that this machine got when it joined. They may be empty when there are rules on
	// disk.
	First rules.Set
	// Path is the file for the last valid rules. Its directory exists.
	Path string
	Auth *authrpc.Client
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Carrier holds the newest verified rules. Its methods may be called by several goroutines at once.
type Carrier struct {
	cfg  Config
	file *rulesfile.File // belongs to New, and then to the goroutine of Run

	mu          sync.Mutex // guards the fields below, and all sends to subscribers
	trust       *rules.Trust
	push        tunnel.RulesPush                   // trust, encoded for nodes
	subscribers map[chan tunnel.RulesPush]struct{} // each has room for one push
}

// New verifies the rules on disk and cfg.First, and starts with the newer ones. It fails when neither are
// valid.
func New(cfg Config) (*Carrier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	file := rulesfile.New(cfg.Path, cfg.Log)
	trust, err := newest(file, cfg)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "proxy.rules",
			"the proxy has no rules that its cluster signed",
			"remove the proxy's data directory and join it again with a new token")
	}
	c := &Carrier{cfg: cfg, file: file, subscribers: map[chan tunnel.RulesPush]struct{}{}}
	return c, c.publish(trust)
}

// newest returns the newer of the rules on disk and cfg.First.
func newest(file *rulesfile.File, cfg Config) (*rules.Trust, error) {
	disk, errDisk := file.Load(cfg.Pin)
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

// Current returns the newest verified rules. It is never nil.
func (c *Carrier) Current() *rules.Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

// Subscribe returns a channel with the newest rules, now and after each change. Rules that the receiver has
// not taken are replaced by the next ones. stop ends the subscription.
func (c *Carrier) Subscribe() (pushes <-chan tunnel.RulesPush, stop func()) {
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

// publish makes trust the current rules and sends them to the subscribers. It never blocks on a subscriber.
func (c *Carrier) publish(trust *rules.Trust) error {
	push, err := pushOf(trust)
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trust, c.push = trust, push
	for ch := range c.subscribers {
		select { // only this function sends, with mu held: once the old push is gone, there is room for one
		case <-ch:
		default:
		}
		ch <- push
	}
	return nil
}

// pushOf encodes the rules for nodes.
func pushOf(trust *rules.Trust) (push tunnel.RulesPush, err error) {
	if push.Set, err = trust.Set().Encode(); err != nil {
		return push, err
	}
	if push.Head, err = trust.Set().EncodeHead(); err != nil {
		return push, err
	}
	push.DocsDigest, err = trust.Head.Fingerprint()
	return push, err
}

// Run follows the auth service until ctx ends. While the auth service cannot be reached, the last valid
// rules stay. Run is called once.
func (c *Carrier) Run(ctx context.Context) error {
	pauses := backoff.Backoff{First: firstBackoff, Max: maxBackoff}
	for ctx.Err() == nil {
		received, err := c.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if received {
			pauses.Reset()
		}
		pause := pauses.Next()
		c.cfg.Log.Warn("no rules from the auth service; the last valid ones stay in force",
			"err", err, "age", c.Current().Age(c.cfg.Now()).Round(time.Second), "retry_in", pause)
		backoff.Sleep(ctx, pause)
	}
	return nil
}

// watch reads one stream until it ends, fails, or is silent for silenceTimeout. received tells whether it
// brought any rules.
func (c *Carrier) watch(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silenceTimeout, func() {
		cancel(fmt.Errorf("the auth service sent nothing for %s", silenceTimeout))
	})
	defer silent.Stop()
	req := authrpc.WatchRulesRequest{Since: c.Current().Head.Time}
	err = authrpc.Stream(ctx, c.cfg.Auth, authrpc.WatchRules, req, func(u authrpc.RulesUpdate) error {
		silent.Reset(silenceTimeout)
		received = true
		c.apply(u.Set)
		return nil
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return received, err
}

// apply verifies a set, and publishes and saves it. A set that is invalid or older changes nothing.
func (c *Carrier) apply(s rules.Set) {
	next, err := c.Current().Advance(s)
	if err == nil {
		err = c.publish(next)
	}
	if err != nil {
		c.cfg.Log.Warn("rules from the auth service refused", "err", err)
		return
	}
	c.file.Save(next)
}
