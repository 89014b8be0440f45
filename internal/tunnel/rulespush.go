package tunnel

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"time"

	"github.com/threshold-access/threshold/internal/wire"
)

// Bounds of what a node keeps of pushed rules that its program has not taken. When it is full, the node reads
// no more: the proxy then waits.
const (
	maxUntakenPieces = 128
	maxUntakenBytes  = 2 * MaxFrameBytes
)

// repeatPause is how often, at most, a node makes the proxy send whole pieces again.
const repeatPause = 5 * time.Second

// pushTimeout bounds the writing of one frame of a push whose context has no deadline.
const pushTimeout = 30 * time.Second

// RulesPush is one version of the signed rules, as a proxy has it for all its tunnels. This package does not
// decode the rules. rules.Feed is one.
type RulesPush interface {
	// Next returns the pieces that a node needs to get from what it was sent before to this version, in the
	// order of sending, and the head, which goes last. carried says, by the name of each piece, the digest of
	// the version that this tunnel carried last.
	Next(carried map[string][sha256.Size]byte) (pieces [][]byte, head []byte)
	// Digests is what a tunnel has carried after that. All tunnels share it, so nobody changes it.
	Digests() map[string][sha256.Size]byte
}

// PushedRules has what a proxy has pushed and the node has not taken yet. Nobody has verified it.
type PushedRules struct {
	Pieces [][]byte // in the order in which they came
	Head   []byte   // the newest head; it came after at least the pieces that it needs. Nil: none came
}

// add returns the rules with one more frame. A newer head replaces the one before.
func (p PushedRules) add(kind frameKind, body []byte) PushedRules {
	if kind == frameHead {
		p.Head = body
	} else {
		p.Pieces = append(p.Pieces, body)
	}
	return p
}

// full reports whether the node must not read more before these are taken.
func (p PushedRules) full() bool {
	size := 0
	for _, piece := range p.Pieces {
		size += len(piece)
	}
	return len(p.Pieces) >= maxUntakenPieces || size >= maxUntakenBytes
}

// repeatRequest is a node's request to send pieces again, whole, because it lacks them.
type repeatRequest struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"` // fields of this message
	Pieces   []string      `json:"pieces"`             // names of pieces
}

// PushRules sends rules to the node: the pieces that this tunnel has not carried, and the head. Concurrent
// calls wait for each other, so the node gets each push whole and in order.
//
// If PushRules returns an error it has ended the tunnel: a part of a frame may have been sent, and the node
// could not read what came after it. Each frame takes pushTimeout at most if ctx has no deadline.
func (a *Attached) PushRules(ctx context.Context, push RulesPush) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { a.session.Close() }) // ends a write that waits for the node
	err := a.writeRules(ctx, push)
	if ctxEnded := !stop(); ctxEnded && err == nil {
		err = ctx.Err() // the tunnel is closed, although the frames were sent
	}
	if err != nil {
		a.session.Close()
		return fmt.Errorf("tunnel: push rules: %w", err)
	}
	return nil
}

// writeRules writes the frames of a push. The caller holds a.mu.
func (a *Attached) writeRules(ctx context.Context, push RulesPush) error {
	write := func(kind frameKind, body []byte) error {
		deadline, hasDeadline := ctx.Deadline()
		if !hasDeadline {
			deadline = time.Now().Add(pushTimeout)
		}
		if err := a.control.SetWriteDeadline(deadline); err != nil {
			return err
		}
		return writeFrame(a.control, kind, body)
	}
	pieces, head := push.Next(a.carried)
	for _, piece := range pieces {
		if err := write(frameRules, piece); err != nil {
			return err
		}
	}
	a.carried = push.Digests()
	return write(frameHead, head)
}

// RulesWanted has an element when the node lacks pieces that this tunnel carried: the caller should push the
// present rules again.
func (a *Attached) RulesWanted() <-chan struct{} { return a.rulesWanted }

// takeRepeatRequest notes that the node lacks pieces, and asks for a push by RulesWanted. It ignores a
// request that is malformed, or comes within repeatPause of the one before: a node repeats what it still
// lacks.
func (a *Attached) takeRepeatRequest(body []byte) {
	r, err := repeatMessage.decode(body)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.repeatedAt) >= repeatPause {
		a.repeatedAt = now
		a.carried = maps.Clone(a.carried)
		for _, name := range r.Pieces {
			delete(a.carried, name)
		}
		select {
		case a.rulesWanted <- struct{}{}:
		default:
		}
	}
}

// Rules returns the channel of pushed rules. What was not taken from it is merged with what comes next, so
// the channel always gives all that came. It is not verified.
func (u *Uplink) Rules() <-chan PushedRules { return u.rules }

// RepeatRules asks the proxy to send pieces again, whole, because the node lacks them. It does not wait for
// them. Concurrent calls wait for each other.
func (u *Uplink) RepeatRules(pieces []string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.control.SetWriteDeadline(time.Now().Add(pushTimeout)); err != nil {
		return err
	}
	return repeatMessage.write(u.control, repeatRequest{V: 1, Pieces: pieces})
}

// takeRules adds a frame to the rules that wait to be taken. It waits while those are too large, until they
// are taken or the tunnel ends.
func (u *Uplink) takeRules(kind frameKind, body []byte) {
	var rules PushedRules
	select {
	case rules = <-u.rules:
	default:
	}
	rules = rules.add(kind, body)
	u.rules <- rules // does not block: the channel is empty now, and no other goroutine sends
	if rules.full() {
		select {
		case u.rules <- PushedRules{}: // waits until the rules have been taken
		case <-u.Done():
		}
	}
}
