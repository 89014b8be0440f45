package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Token is a join token, without its secret.
type Token struct {
	Hash    []byte             `json:"hash"` // authrpc.Token.Hash; the secret itself is nowhere
	Kind    identity.Kind      `json:"kind"`
	Labels  identity.Labels    `json:"labels,omitempty"`  // what the machine is labelled with, whatever it wishes
	Machine string             `json:"machine,omitempty"` // the name the machine gets; empty: what it wishes
	By      string             `json:"by,omitempty"`      // who made it
	Created time.Time          `json:"created"`
	Expires time.Time          `json:"expires"`
	Used    time.Time          `json:"used,omitzero"`
	UsedBy  identity.MachineID `json:"used_by,omitempty"`
	Refused int                `json:"refused,omitempty"` // how often it was shown after its use or end
}

// tokenName says which token has a hash.
type tokenName struct {
	Name string `json:"name"`
}

var (
	tokens     = table[Token]{prefix: "token/", noun: "token", remedy: "run: tsh get tokens"}
	tokenNames = table[tokenName]{
		prefix: "token-hash/",
		noun:   "token",
		remedy: "make a new one: tsh token create",
	}
)

// tokenRetention is how long a token is remembered after its birth, so that a late user is told that it
// ended.
const tokenRetention = 24 * time.Hour

// AddToken stores a token under a name that is free.
func (s *State) AddToken(ctx context.Context, name string, t Token, events ...audit.Event) (uint64, error) {
	lease, err := s.store.Grant(ctx, tokenRetention)
	if err != nil {
		return 0, err
	}
	c := change{
		conflict: fault.New(
			fault.Conflict,
			"state.AddToken",
			fmt.Sprintf("there is a token %.80q already", name),
			"choose another name, or remove it: tsh rm token NAME",
		),
	}
	tokens.requireMissing(&c, name)
	tokens.setLeased(&c, name, t, lease)
	tokenNames.setLeased(&c, hex.EncodeToString(t.Hash), tokenName{Name: name}, lease)
	c.appendEvents(events...)
	r, err := s.commit(ctx, &c)
	return r.Revision, err
}

// TokenByHash finds a token by what the holder of the secret can compute.
func (s *State) TokenByHash(ctx context.Context, hash [sha256.Size]byte) (Stored[Token], error) {
	n, err := tokenNames.get(ctx, s, hex.EncodeToString(hash[:]))
	if err != nil {
		return Stored[Token]{}, err
	}
	return s.Token(ctx, n.Value.Name)
}

// Token returns the token of that name.
func (s *State) Token(ctx context.Context, name string) (Stored[Token], error) {
	return tokens.get(ctx, s, name)
}

// ListTokens returns one page of tokens, ended ones too as long as they are remembered.
func (s *State) ListTokens(ctx context.Context, p Page) (Listing[Token], error) {
	return tokens.list(ctx, s, p)
}

// CountRefusal counts that a token was shown after its use or end, with its events.
func (s *State) CountRefusal(ctx context.Context, old Stored[Token], events ...audit.Event) error {
	next := old.Value
	next.Refused++
	var c change
	tokens.replace(&c, old, next)
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}

// RemoveToken ends a token before its time.
func (s *State) RemoveToken(ctx context.Context, old Stored[Token], events ...audit.Event) error {
	var c change
	tokens.remove(&c, old)
	tokenNames.deleteKey(&c, hex.EncodeToString(old.Value.Hash))
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}
