package join

import (
	"cmp"
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

// MaxTokenUses bounds how many machines may join with one token. Its record lists them.
const MaxTokenUses = 100

// TokenRequest says which join token to create.
type TokenRequest struct {
	Name        string        // the token's own; "" for a random one
	Kind        identity.Kind // node or proxy
	Uses        int           // how many machines may join, up to MaxTokenUses; zero means one
	TTL         time.Duration // from 1s to MaxTokenTTL; zero means DefaultTokenTTL
	NamePattern string        // see state.Token
	Labels      identity.Labels
	PublicNames []string          // that a proxy may have; none means the cluster's name
	By          identity.Identity // who asks; zero for auth itself, which invites machines of its own process
}

// CheckTokenRequest calls report for everything that is wrong with a request, and not at all for a good one.
// path names the field of the token's document; format and args are the message.
func CheckTokenRequest(r TokenRequest, report func(path, format string, args ...any)) {
	if r.Kind != identity.Node && r.Kind != identity.Proxy {
		report("kind", "%.20q is not a kind of machine that joins with a token: use node or proxy", r.Kind)
	}
	if r.Uses < 0 || r.Uses > MaxTokenUses {
		report("uses", "%d is not between 1 and %d", r.Uses, MaxTokenUses)
	}
	if r.TTL != 0 && (r.TTL < minTokenTTL || r.TTL > MaxTokenTTL) {
		report("ttl", "%s is not between %s and %s", r.TTL, minTokenTTL, MaxTokenTTL)
	}
	if err := CheckLabels(r.Labels, nil); err != nil {
		report("labels", "%s", fault.Message(err))
	}
	if r.NamePattern != "" {
		if err := checkNamePattern(r.NamePattern); err != nil {
			report("name_pattern", "%v", err)
		}
		if r.Uses > 1 && !hasWildcard(r.NamePattern) {
			report("name_pattern", "%q is one name, for %d machines: use * or ?", r.NamePattern, r.Uses)
		}
	}
	if len(r.PublicNames) > 0 && r.Kind != identity.Proxy {
		report("public_names", "only a proxy has public names")
	}
	if len(r.PublicNames) > maxNames {
		report("public_names", "there are %d, more than %d", len(r.PublicNames), maxNames)
	}
	for _, public := range r.PublicNames {
		if err := checkPublicName(public); err != nil {
			report("public_names", "%v", err)
		}
	}
}

// Create creates a join token and returns its text and its record. Only the caller learns the text: auth
// stores a hash of it. A request that CheckTokenRequest reports on is fault Invalid; a name that is taken is
// fault Conflict. Create asks for no permission: auth/resources does that for users.
func (s *Service) Create(
	ctx context.Context,
	req TokenRequest,
) (authrpc.Token, state.Stored[state.Token], error) {
	var noRecord state.Stored[state.Token]
	if err := firstProblem(req); err != nil {
		return authrpc.Token{}, noRecord, err
	}
	if req.Name == "" {
		req.Name = string(req.Kind) + "-" + state.NewID()[:12]
	}
	if req.Kind == identity.Proxy && len(req.PublicNames) == 0 {
		req.PublicNames = []string{s.cfg.Cluster}
	}
	token := authrpc.Token{Kind: req.Kind, Pin: s.cfg.Pin}
	_, _ = rand.Read(token.Secret[:]) // crypto/rand never fails since Go 1.24
	hash, now := token.Hash(), s.cfg.Now().UTC()
	record := state.Token{
		Hash:        hash[:],
		Kind:        req.Kind,
		Uses:        cmp.Or(req.Uses, 1),
		NamePattern: req.NamePattern,
		Labels:      req.Labels,
		PublicNames: req.PublicNames,
		By:          creatorName(req.By),
		Created:     now,
		Expires:     now.Add(cmp.Or(req.TTL, DefaultTokenTTL)),
	}
	after, err := audit.NewDocument(record) // it has the hash of the secret
	if err != nil {
		return authrpc.Token{}, noRecord, err
	}
	event := audit.New(now, req.By, audit.TokenCreation{
		Token:   req.Name,
		Kind:    req.Kind,
		Expires: record.Expires,
		After:   after,
	})
	if _, err := s.cfg.Tokens.AddToken(ctx, req.Name, record, event); err != nil {
		return authrpc.Token{}, noRecord, err
	}
	stored, err := s.cfg.Reader.Token(ctx, req.Name)
	return token, stored, err
}

// firstProblem is the first thing that CheckTokenRequest reports, as a fault; nil if there is none.
func firstProblem(r TokenRequest) error {
	var first error
	CheckTokenRequest(r, func(path, format string, args ...any) {
		if first == nil {
			first = tokenRequestInvalid.New("token", fault.Args{
				"field": path,
				"why":   fmt.Sprintf(format, args...),
			})
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
