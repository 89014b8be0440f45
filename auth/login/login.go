// Package login answers: how far has this login come?
//
//	begun → identified → Assured
//
// Begin makes a begun attempt and returns the provider's page. Identify turns it into an identified attempt
// once the provider has identified the user (auth/oidc). Prove checks the second factor and stores the
// finished login under the hash of a one-time code, and the browser brings the code to tsh. Redeem returns
// Assured to the client that sends the code, the verifier and the public keys to which the attempt committed
// (authrpc.Challenge). Each step needs a type that only the step before makes, so code that skips the second
// factor does not compile.
//
// A begun attempt exists only as a cookie in the browser. It is sealed: encrypted and authenticated with a
// key that all replicas of the cluster share. So no request of an unauthenticated caller writes to the store,
// and what such callers send is counted in memory only. Identify stores the attempt, so an answer of a
// provider counts once, and the cookie only refers to it: any proxy, and any replica, can go on with any
// login.
//
// Refusals of unauthenticated callers are counted, and logged at a limited rate. Refusals after the provider
// has identified the user are audit events.
package login

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// AttemptLife is how long a user has from one step in the browser to the next. It is also how long the
	// link of a headless login can be used.
	AttemptLife = 10 * time.Minute
	// CodeLife is how long tsh has to redeem the one-time code.
	CodeLife = time.Minute
	// FirstCodeLife is CodeLife after an enrolment, when the user writes down the recovery codes before the
	// browser goes on to tsh.
	FirstCodeLife = 10 * time.Minute
)

// Providers identifies users by their identity providers. oidc.Providers implements it.
type Providers interface {
	List(ctx context.Context) ([]oidc.Choice, error)
	Start(ctx context.Context, connector, redirect, locale string) (f oidc.Flow, page string, err error)
	Finish(ctx context.Context, f oidc.Flow, r oidc.CallbackParams) (oidc.VerifiedUser, error)
}

// Factors verify second factors. factor.Service implements it.
type Factors interface {
	// Challenges returns what the user must answer: one of them, or an enrolment.
	Challenges(ctx context.Context, who identity.Identity) ([]factor.Challenge, error)
	// Verify judges an answer and uses it up. It stores the audit events of its own refusals.
	Verify(ctx context.Context, a factor.Answer) (factor.Proof, error)
}

// Attempts stores identified attempts. state.Attempts implements it.
type Attempts interface {
	AddAttempt(ctx context.Context, id state.AttemptID, content []byte, expires, now time.Time) error
	Attempt(ctx context.Context, id state.AttemptID) (state.StoredAttempt, error)
}

// Logins stores finished logins until they are redeemed, and knows which roles an administrator gave a user.
// state.Logins implements it.
type Logins interface {
	User(ctx context.Context, who identity.UserKey) (state.Stored[state.User], error)
	// AddLogin also marks the attempt as used: an attempt makes one login.
	AddLogin(
		ctx context.Context,
		h state.CodeHash,
		p state.PendingLogin,
		a state.StoredAttempt,
		events ...audit.Event,
	) error
	PendingLogin(ctx context.Context, h state.CodeHash) (state.Stored[state.PendingLogin], error)
	// RedeemLogin is fault Conflict if what the login was decided by has changed.
	RedeemLogin(
		ctx context.Context,
		l state.Stored[state.PendingLogin],
		by state.Decided,
		now time.Time,
		issued []json.RawMessage,
		events ...audit.Event,
	) error
	RefuseLogin(ctx context.Context, l state.Stored[state.PendingLogin], events ...audit.Event) error
	LockSet(ctx context.Context) (*state.LockSet, error)
	ConnectorRevision(ctx context.Context, name string) (uint64, error)
}

// Events stores the refusals of users whom a provider has identified. state.Events implements it.
type Events interface {
	AppendEvents(ctx context.Context, events ...audit.Event) error
}

// Config is what the service needs. All but Log and Now is required.
type Config struct {
	Cluster   string
	Key       []byte // seals attempts: 32 bytes, the same on every replica
	Providers Providers
	Factors   Factors
	Attempts  Attempts
	Logins    Logins
	Events    Events
	// AllowedOrigin refuses an origin that is not one of the proxy's own. Otherwise a proxy could let a
	// provider send browsers to any server.
	AllowedOrigin func(by identity.Identity, origin string) error
	// Log gets the refusals of unauthenticated callers, at a limited rate. Nil discards them.
	Log *slog.Logger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Service runs login attempts. It keeps no state of its own between calls but counters, so an attempt may
// continue on any replica. It is safe for concurrent use.
type Service struct {
	cfg       Config
	sealer    sealer
	refusals  refusals
	callbacks callbackCounts
}

// New makes a service.
func New(cfg Config) (*Service, error) {
	if cfg.Providers == nil || cfg.Factors == nil || cfg.Attempts == nil || cfg.Logins == nil ||
		cfg.Events == nil || cfg.AllowedOrigin == nil || identity.CheckCluster(cfg.Cluster) != nil {
		return nil, loginConfigIncomplete.New("login.New")
	}
	sealer, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, sealer: sealer, refusals: newRefusals(cfg.Log, cfg.Now)}, nil
}

// Refusals counts the refusals of unauthenticated callers since the start.
func (s *Service) Refusals() RefusalCounts { return s.refusals.snapshot() }

// checkProxy returns fault Denied for callers other than proxies: only a proxy serves the pages of a login.
func checkProxy(op string, by identity.Identity) error {
	if by.Kind != identity.Proxy {
		return proxyOnly.New(op)
	}
	return nil
}
