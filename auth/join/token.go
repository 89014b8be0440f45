package join

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// MaxTokenTTL bounds the life of a join token; DefaultTokenTTL is what it has when nobody says otherwise.
const (
	MaxTokenTTL     = 30 * time.Minute
	DefaultTokenTTL = 15 * time.Minute
	minTokenTTL     = time.Second
)

// TokenRequest is a token someone wants.
type TokenRequest struct {
	Name    string        // the token's own; empty: drawn
	Kind    identity.Kind // node or proxy
	TTL     time.Duration // zero: DefaultTokenTTL
	Labels  identity.Labels
	Machine string            // the name the machine gets; empty: what it wishes
	By      identity.Identity // who asks; the zero Identity is auth itself, for the parts that run in its own process
}

// CheckTokenRequest reports what is wrong with a wish, each with the field of the token's document that it is
// in.
func CheckTokenRequest(w TokenRequest, report func(path, format string, args ...any)) {
	if w.Kind != identity.Node && w.Kind != identity.Proxy {
		report("kind", "%.20q is no kind of machine that joins by a token: use node or proxy", w.Kind)
	}
	if w.TTL != 0 && (w.TTL < minTokenTTL || w.TTL > MaxTokenTTL) {
		report("ttl", "%s is not between %s and %s", w.TTL, minTokenTTL, MaxTokenTTL)
	}
	if err := CheckLabels(w.Labels); err != nil {
		report("labels", "%s", fault.Message(err))
	}
	if w.Machine != "" {
		if err := identity.CheckMachineName(w.Machine); err != nil {
			report("machine", "%v", err)
		}
	}
}

// Create makes a token. Its text is known to the caller alone: auth keeps a hash.
func (d *Service) Create(
	ctx context.Context,
	w TokenRequest,
) (authrpc.Token, state.Stored[state.Token], error) {
	var none state.Stored[state.Token]
	var bad error
	CheckTokenRequest(w, func(path, format string, args ...any) {
		if bad == nil {
			bad = fault.New(
				fault.Invalid,
				"token",
				path+": "+fmt.Sprintf(format, args...),
				"correct the token's "+path+", then try again",
			)
		}
	})
	if bad != nil {
		return authrpc.Token{}, none, bad
	}
	if w.TTL == 0 {
		w.TTL = DefaultTokenTTL
	}
	t := authrpc.Token{Kind: w.Kind, Pin: d.cfg.Pin}
	_, _ = rand.Read(t.Secret[:]) // crypto/rand never fails since Go 1.24
	if w.Name == "" {
		w.Name = string(w.Kind) + "-" + state.NewID()[:12]
	}
	hash, now := t.Hash(), d.cfg.Now().UTC()
	rec := state.Token{
		Hash:    hash[:],
		Kind:    w.Kind,
		Labels:  w.Labels,
		Machine: w.Machine,
		By:      creatorName(w.By),
		Created: now,
		Expires: now.Add(w.TTL),
	}
	e := audit.Event{Code: audit.TokenCreated, Time: now, User: "auth"}
	if w.By.Kind == identity.User {
		e = audit.NewEvent(audit.TokenCreated, w.By, now)
	}
	e.Fields = map[string]string{"token": w.Name, "kind": string(w.Kind), "expires": formatTime(rec.Expires)}
	if _, err := d.cfg.State.Tokens.AddToken(ctx, w.Name, rec, e); err != nil {
		return authrpc.Token{}, none, err
	}
	kept, err := d.cfg.State.Token(ctx, w.Name)
	return t, kept, err
}

func creatorName(by identity.Identity) string {
	if by.Kind == identity.User {
		return by.Name
	}
	return "auth"
}
