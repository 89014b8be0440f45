// Package rules answers: which signed rules does this proxy hold, how do nodes get newer ones, and how does
// auth learn which they have?
//
// A Carrier follows the stream of rules from the auth service. It verifies them, because the proxy decides by
// the rules itself, saves the last valid ones on disk, and passes the signed bytes on to every tunnel, also
// documents of kinds that this program does not read. It can sign nothing: nodes verify the rules again.
package rules

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
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
	cfg      Config
	file     *rulesfile.File // belongs to New, and then to a goroutine of Run
	receiver *rules.Receiver

	mu          sync.Mutex                         // guards the fields below, and all sends to subscribers
	feed        *rules.Feed                        // the rules in force, encoded for nodes
	subscribers map[chan tunnel.RulesPush]struct{} // each has room for one push
}

// New returns a Carrier whose current rules are those on disk or cfg.First, whichever are newer, after
// verifying both from cfg.Pin. It returns a fault of kind Unavailable when neither are valid. It starts
// nothing.
func New(cfg Config) (*Carrier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	file := rulesfile.New(cfg.Path, cfg.Log)
	trust, err := file.Newest(cfg.Pin, cfg.First)
	if err != nil {
		return nil, proxyWithoutRules.Wrap(err, "proxy.rules")
	}
	feed, err := rules.NewFeed(trust.Set())
	if err != nil {
		return nil, fmt.Errorf("encode rules: %w", err)
	}
	return &Carrier{
		cfg:         cfg,
		file:        file,
		receiver:    rules.NewReceiver(trust, cfg.Now()),
		feed:        feed,
		subscribers: map[chan tunnel.RulesPush]struct{}{},
	}, nil
}

// Current returns the newest verified rules. It is never nil.
func (c *Carrier) Current() *rules.Trust { return c.receiver.Current() }

// Changed returns a channel that is closed when the next change of a document gets in force. Take it before
// Current, so that no change is missed.
func (c *Carrier) Changed() <-chan struct{} { return c.receiver.Changed() }

// Subscribe returns a channel that has the newest rules at once, and then each later version. A version that
// the receiver has not taken when the next one comes is lost. stop ends the subscription; it does not close
// the channel.
func (c *Carrier) Subscribe() (pushes <-chan tunnel.RulesPush, stop func()) {
	ch := make(chan tunnel.RulesPush, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	ch <- c.feed
	c.subscribers[ch] = struct{}{}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers, ch)
	}
}

// publish encodes the rules that got in force, and puts them into the channel of each subscriber. It never
// waits for a subscriber. An error says that they could not be encoded; then nothing has changed.
func (c *Carrier) publish(trust *rules.Trust) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	feed, err := c.feed.Follow(trust.Set())
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	c.feed = feed
	for ch := range c.subscribers {
		select {
		case <-ch: // takes out the push that the subscriber has not taken
		default:
		}
		ch <- feed // does not block: only this function sends, with mu held, so the channel is empty
	}
	return nil
}

// Run receives new rules from the auth service until ctx ends, and then returns nil. While the auth service
// cannot be reached, the last valid rules stay in force, and Run tries again with growing pauses. It saves
// the rules on disk. It is called once.
func (c *Carrier) Run(ctx context.Context) error {
	saved := make(chan struct{})
	go func() { defer close(saved); _ = c.file.Run(ctx, c.receiver) }()
	defer func() { <-saved }()
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

// watch opens one stream of rules and applies what comes, until the stream ends or fails, ctx ends, nothing
// has come for silenceTimeout, or the stream does not send what it should. received reports whether any rules
// came, valid or not. err says why the stream ended.
func (c *Carrier) watch(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silenceTimeout, func() {
		cancel(fmt.Errorf("the auth service sent nothing for %s", silenceTimeout))
	})
	defer silent.Stop()
	req := authrpc.WatchRulesRequest{Have: c.have()}
	err = authrpc.Stream(ctx, c.cfg.Auth, authrpc.WatchRules, req, func(u authrpc.RulesUpdate) error {
		silent.Reset(silenceTimeout)
		received = true
		return c.apply(u.Piece)
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause // says more than the error of the aborted stream
	}
	return received, err
}

// have returns the digests of the documents that this proxy holds.
func (c *Carrier) have() map[rules.Kind][]byte {
	have := map[rules.Kind][]byte{}
	for kind, ref := range c.Current().Head.Docs {
		have[kind] = ref.Digest
	}
	return have
}

// apply takes one piece of the rules that the auth service sent. If new rules get in force by it, it passes
// them on. It logs a piece that is not valid or older than the current rules, and
// otherwise ignores it. It returns an error if a head came without its documents: a new stream sends them.
func (c *Carrier) apply(piece []byte) error {
	received, err := c.receiver.Offer(c.cfg.Now(), piece)
	if err != nil {
		c.cfg.Log.Warn("rules from the auth service refused", "err", err)
	}
	if received.InForce != nil {
		if err := c.publish(received.InForce); err != nil {
			c.cfg.Log.Warn("rules cannot be passed on to nodes", "err", err)
		}
	}
	if len(received.Lacking) > 0 {
		return fmt.Errorf("the auth service sent a head without its documents: %q", received.Lacking)
	}
	return nil
}
