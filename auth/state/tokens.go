package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Token is a join token, without its secret.
type Token struct {
	Hash   []byte          `json:"hash"` // authrpc.Token.Hash; the secret itself is stored nowhere
	Kind   identity.Kind   `json:"kind"`
	Uses   int             `json:"uses"`             // how many machines may join with it
	Joined []JoinedMachine `json:"joined,omitempty"` // those that did, in order
	// NamePattern is the name that the machine gets, or a pattern that the name it asks for must match. Empty
	// admits every name.
	NamePattern string          `json:"name_pattern,omitempty"`
	Labels      identity.Labels `json:"labels,omitempty"`       // that the machine gets
	PublicNames []string        `json:"public_names,omitempty"` // of a proxy: the only ones that it may have
	By          string          `json:"by,omitempty"`           // who created the token
	Created     time.Time       `json:"created"`
	Expires     time.Time       `json:"expires"`
	Refused     int             `json:"refused,omitempty"` // how many requests with it were refused
}

// JoinedMachine is a machine that joined with a token.
type JoinedMachine struct {
	ID   identity.MachineID `json:"id"`
	Time time.Time          `json:"time"`
}

// UsedUp reports whether as many machines have joined with the token as may.
func (t Token) UsedUp() bool { return len(t.Joined) >= t.Uses }

// tokenName says which token has a hash.
type tokenName struct {
	Name string `json:"name"`
}

var (
	tokens     = table[Token]{prefix: "token/", noun: "token", remedy: "run: tsh get tokens"}
	tokenNames = table[tokenName]{
		prefix: "token-hash/", noun: "token", remedy: "make a new one: tsh token create",
	}
)

// TokenByHash finds a token by the hash that the holder of the secret can compute, or returns fault NotFound.
func (r *Reader) TokenByHash(ctx context.Context, hash [sha256.Size]byte) (Stored[Token], error) {
	n, err := tokenNames.get(ctx, r, hex.EncodeToString(hash[:]))
	if err != nil {
		return Stored[Token]{}, err
	}
	return r.Token(ctx, n.Value.Name)
}

// Token returns the token of that name, or fault NotFound.
func (r *Reader) Token(ctx context.Context, name string) (Stored[Token], error) {
	return tokens.get(ctx, r, name)
}

// ListTokens returns one page of tokens, ordered by name. Used and expired tokens are among them until their
// records are deleted (tokenRetention).
func (r *Reader) ListTokens(ctx context.Context, p Page) (Listing[Token], error) {
	return tokens.list(ctx, r, p)
}

// Tokens adds, counts and removes join tokens, and reads. Machines adds to them who joined.
type Tokens struct{ writer }

// tokenRetention is how long a token's record is kept after the token was created. It is longer than any
// token is valid, so that whoever presents one too late is told that it expired.
const tokenRetention = 24 * time.Hour

// AddToken stores a token under a name and returns its revision. The store deletes it after tokenRetention. A
// name that another token has is fault Conflict.
func (w *Tokens) AddToken(
	ctx context.Context, name string, t Token, events ...audit.Event,
) (uint64, error) {
	lease, err := w.store.Grant(ctx, tokenRetention)
	if err != nil {
		return 0, err
	}
	c := change{conflict: tokenNameTaken.New("state.AddToken", fault.Args{"name": name})}
	tokens.requireMissing(&c, name)
	tokens.setLeased(&c, name, t, lease)
	tokenNames.setLeased(&c, hex.EncodeToString(t.Hash), tokenName{Name: name}, lease)
	c.appendEvents(events...)
	r, err := w.commit(ctx, &c)
	return r.Revision, err
}

// CountRefusal adds one to the number of requests with the token that were refused, and stores the events. It
// returns fault Conflict if old is no longer what is stored.
func (w *Tokens) CountRefusal(ctx context.Context, old Stored[Token], events ...audit.Event) error {
	next := old.Value
	next.Refused++
	var c change
	tokens.replace(&c, old, next)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// RemoveToken removes a token before it expires.
func (w *Tokens) RemoveToken(ctx context.Context, old Stored[Token], events ...audit.Event) error {
	var c change
	tokens.remove(&c, old)
	tokenNames.deleteKey(&c, hex.EncodeToString(old.Value.Hash))
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
