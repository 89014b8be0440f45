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

// Lifetimes of a join token.
const (
	MaxTokenTTL     = 30 * time.Minute
	DefaultTokenTTL = 15 * time.Minute // for a request that names none
	minTokenTTL     = time.Second
)

// TokenRequest says which join token to create.
type TokenRequest struct {
	Name    string        // the token's own; "" for a random one
	Kind    identity.Kind // node or proxy
	TTL     time.Duration // from 1s to MaxTokenTTL; zero means DefaultTokenTTL
	Labels  identity.Labels
	Machine string            // the name that the machine gets; "" lets the machine choose
	By      identity.Identity // who asks; zero for auth itself, which invites machines of its own process
}

// CheckTokenRequest reports everything that is wrong with a request. path names the field of the token's
// document.
func CheckTokenRequest(r TokenRequest, report func(path, format string, args ...any)) {
	if r.Kind != identity.Node && r.Kind != identity.Proxy {
		report("kind", "%.20q is not a kind of machine that joins with a token: use node or proxy", r.Kind)
	}
	if r.TTL != 0 && (r.TTL < minTokenTTL || r.TTL > MaxTokenTTL) {
		report("ttl", "%s is not between %s and %s", r.TTL, minTokenTTL, MaxTokenTTL)
	}
	if err := CheckLabels(r.Labels); err != nil {
		report("labels", "%s", fault.Message(err))
	}
	if r.Machine != "" {
		if err := identity.CheckMachineName(r.Machine); err != nil {
			report("machine", "%v", err)
		}
	}
}

// Create creates a token and returns it with its record. Only the caller learns the token's text: auth
// stores a hash.
func (s *Service) Create(
	ctx context.Context,
	r TokenRequest,
) (authrpc.Token, state.Stored[state.Token], error) {
	var none state.Stored[state.Token]
	if err := firstProblem(r); err != nil {
		return authrpc.Token{}, none, err
	}
	if r.TTL == 0 {
		r.TTL = DefaultTokenTTL
	}
	if r.Name == "" {
		r.Name = string(r.Kind) + "-" + state.NewID()[:12]
	}
	token := authrpc.Token{Kind: r.Kind, Pin: s.cfg.Pin}
	_, _ = rand.Read(token.Secret[:]) // crypto/rand never fails since Go 1.24
	hash, now := token.Hash(), s.cfg.Now().UTC()
	rec := state.Token{
		Hash:    hash[:],
		Kind:    r.Kind,
		Labels:  r.Labels,
		Machine: r.Machine,
		By:      creatorName(r.By),
		Created: now,
		Expires: now.Add(r.TTL),
	}
	e := audit.Event{Code: audit.TokenCreated, Time: now, User: "auth"}
	if r.By.Kind == identity.User {
		e = audit.NewEvent(audit.TokenCreated, r.By, now)
	}
	e.Fields = map[string]string{"token": r.Name, "kind": string(r.Kind), "expires": formatTime(rec.Expires)}
	if _, err := s.cfg.Tokens.AddToken(ctx, r.Name, rec, e); err != nil {
		return authrpc.Token{}, none, err
	}
	stored, err := s.cfg.Reader.Token(ctx, r.Name)
	return token, stored, err
}

// firstProblem is the first thing that CheckTokenRequest reports, as a fault; nil if there is none.
func firstProblem(r TokenRequest) error {
	var first error
	CheckTokenRequest(r, func(path, format string, args ...any) {
		if first == nil {
			msg := path + ": " + fmt.Sprintf(format, args...)
			first = fault.New(fault.Invalid, "token", msg, "correct the token's "+path+", then try again")
		}
	})
	return first
}

// creatorName is who created a token, as its record says.
func creatorName(by identity.Identity) string {
	if by.Kind == identity.User {
		return by.Name
	}
	return "auth"
}
