// Package login answers: how far has this login come?
//
//	begun → identified → Assured
//
// Begin makes a begun attempt and names the provider's page. Identify turns it into an identified one, once
// the provider vouched (auth/oidc). Prove checks the second factor and stores the finished login under the
// hash of a one-time code, which the browser carries to tsh. Redeem gives Assured to whoever shows that code
// together with the verifier and keys that the attempt committed to. Each step is a type that only the step
// before makes, so what skips a factor does not compile.
//
// Until the second factor is asked for, an attempt lives nowhere but in the browser's cookie, sealed: no
// request of a stranger writes to the store. Refusals of strangers go to a log that is limited in rate, and
// to counters; those after the provider vouched are audit events.
package login

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// AttemptLife is how long a person has between the steps in the browser, and at most from one step to the
	// next.
	AttemptLife = 10 * time.Minute
	// CodeLife is how long the one-time code waits for tsh.
	CodeLife = time.Minute
	// FirstCodeLife is CodeLife after an enrolment: the browser shows recovery codes, which a person writes
	// down before going on.
	FirstCodeLife = 10 * time.Minute
)

// Providers vouch for people. oidc.Providers are some.
type Providers interface {
	List(ctx context.Context) ([]oidc.Choice, error)
	Start(ctx context.Context, connector, redirect, locale string) (f oidc.Flow, page string, err error)
	Finish(ctx context.Context, f oidc.Flow, r oidc.CallbackParams) (oidc.VerifiedUser, error)
}

// Factor is a second factor: TOTP now, WebAuthn to follow. totp.Service is one.
type Factor interface {
	// OfferEnrolment returns an enrolment for a person without the factor, nil for one who has it.
	OfferEnrolment(ctx context.Context, who identity.Identity) (*totp.Enrolment, error)
	// Verify checks an answer and uses it up; it records its own refusals.
	Verify(ctx context.Context, a totp.Answer) (totp.Proof, error)
}

// Logins stores finished logins until they are redeemed, and knows which roles an administrator gave a user.
// state.Logins implements it.
type Logins interface {
	User(ctx context.Context, who identity.UserKey) (state.Stored[state.User], error)
	AddLogin(ctx context.Context, h state.CodeHash, p state.PendingLogin, events ...audit.Event) error
	PendingLogin(ctx context.Context, h state.CodeHash) (state.Stored[state.PendingLogin], error)
	RedeemLogin(ctx context.Context, l state.Stored[state.PendingLogin], events ...audit.Event) error
}

// Events stores the refusals of users whom a provider has identified. state.Events implements it.
type Events interface {
	AppendEvents(ctx context.Context, events ...audit.Event) error
}

// Config is what the login machine needs. All but Log and Now is required.
type Config struct {
	Cluster   string
	Key       []byte // seals attempts: 32 bytes, the same on every replica, from the sealed store
	Providers Providers
	Factor    Factor
	Logins    Logins
	Events    Events
	// AllowedOrigin refuses an origin that is not one of the proxy's own, so that no provider is told to send
	// a browser elsewhere.
	AllowedOrigin func(by identity.Identity, origin string) error
	// Log gets the refusals of strangers, limited in rate. Nil discards them.
	Log *slog.Logger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Service is the login machine. It is safe for concurrent use.
type Service struct {
	cfg      Config
	sealer   sealer
	refusals refusals
}

// New makes a Service.
func New(cfg Config) (*Service, error) {
	if cfg.Providers == nil || cfg.Factor == nil || cfg.Logins == nil || cfg.Events == nil || cfg.AllowedOrigin == nil ||
		identity.CheckCluster(cfg.Cluster) != nil {
		return nil, fault.New(fault.Internal, "login.New", "a part is missing", "report this: it is a defect")
	}
	sealer, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Service{cfg: cfg, sealer: sealer, refusals: newRefusals(cfg.Log, cfg.Now)}, nil
}

// Refusals counts what strangers were refused since the start.
func (s *Service) Refusals() RefusalCounts { return s.refusals.snapshot() }

// checkProxy: only proxies stand between a browser and this machine.
func checkProxy(op string, by identity.Identity) error {
	if by.Kind != identity.Proxy {
		return fault.New(fault.Denied, op, "only a proxy may make this request", "log in through a proxy: tsh login")
	}
	return nil
}
