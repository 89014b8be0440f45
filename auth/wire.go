package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/auth/api"
	"github.com/threshold-access/threshold/auth/attachments"
	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/issue"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/port"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// services is the rooms of an open cluster.
type services struct {
	cluster   state.Cluster
	self      identity.Identity // this replica
	state     *state.State
	keys      *keyring.Keyring
	publisher *rules.Publisher
	join      *join.Service
	issuer    *issue.Issuer
	logins    *login.Service
	api       http.Handler
}

// open gives birth to the cluster where that is asked for, opens its keys and makes the rooms.
func (s *Server) open(ctx context.Context) (*services, error) {
	st := state.New(s.store)
	if err := s.checkBootstrap(ctx, st); err != nil {
		return nil, err
	}
	h := &services{state: st}
	var err error
	if h.cluster, err = st.Cluster(ctx); err != nil {
		return nil, err
	}
	seal, err := keyring.OpenSeal(h.cluster.Seal)
	if err != nil {
		return nil, err
	}
	if h.keys, err = keyring.Open(ctx, st.Keyring, seal); err != nil {
		return nil, err
	}
	id, err := st.Replicas.Replica(ctx, s.cfg.ReplicaID)
	if err != nil {
		return nil, err
	}
	h.self = identity.Identity{Kind: identity.Auth, Cluster: h.cluster.Name, Name: s.cfg.ReplicaID, ID: id}
	return h, s.buildServices(h, seal)
}

// checkBootstrap gives birth on an empty store, and refuses to on any other.
func (s *Server) checkBootstrap(ctx context.Context, st *state.State) error {
	empty, err := st.Empty(ctx)
	switch {
	case err != nil:
		return err
	case empty && s.birth == nil:
		return fault.New(
			fault.NotFound,
			"auth.Run",
			"there is no cluster in "+s.cfg.Dir+" yet",
			"run once: threshold start --bootstrap FILE",
		)
	case !empty && s.birth != nil:
		if c, err := st.Cluster(ctx); err == nil && s.cfg.ResumeBootstrap && c.Name == s.birth.name {
			return nil
		}
		return fault.New(
			fault.Conflict,
			"auth.Run",
			"the cluster in "+s.cfg.Dir+" was born already",
			"start without --bootstrap",
		)
	case empty:
		return s.createCluster(ctx, st)
	}
	return nil
}

// buildServices makes the rooms, from the bottom up.
func (s *Server) buildServices(h *services, seal keyring.Seal) error {
	now, log := s.cfg.Now, s.cfg.Log
	h.publisher = rules.New(
		rules.Config{State: h.state, Cluster: h.cluster.Name, Signer: h.keys.RulesSigner, Now: now, Log: log},
	)
	h.join = join.New(join.Config{State: h.state, Cluster: h.cluster.Name, Pin: h.keys.Pin(), Now: now})
	signer, err := ca.New(
		ca.Config{Cluster: h.cluster.Name, Keys: h.keys, Recorder: issue.Recorder{State: h.state}, Now: now},
	)
	if err != nil {
		return err
	}
	h.issuer = issue.New(
		issue.Config{CA: signer, State: h.state, Rules: h.publisher, Cluster: h.cluster.Name, Now: now},
	)
	vault := state.NewVault(h.state, seal)
	if h.logins, err = s.newLogin(h, vault, seal); err != nil {
		return err
	}
	record := audit.New(h.state.Events)
	h.api = api.New(api.Config{
		Caller: port.CallerOf, State: h.state, Login: h.logins, Join: h.join, Issuer: h.issuer, Rules: h.publisher,
		Attachments: attachments.New(
			attachments.Config{State: h.state, Cluster: h.cluster.Name, Now: now, Log: log},
		),
		Resources: resources.New(resources.Config{
			Policies:   h.state.Reader,
			Events:     h.state.Events,
			Roles:      h.state.Roles,
			Connectors: vault,
			Users:      h.state.Users,
			Tokens:     h.state.Tokens,
			Join:       h.join,
			Machines:   h.state.Machines,
			Log:        record,
			Now:        now,
		}),
		Log: record, Now: now, Logger: log,
	})
	return nil
}

func (s *Server) newLogin(h *services, vault *state.Vault, seal keyring.Seal) (*login.Service, error) {
	key, err := seal.Open(state.LoginKeySeal, h.cluster.LoginKey)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	providers, err := oidc.New(oidc.Config{Source: vault, Now: s.cfg.Now})
	if err != nil {
		return nil, err
	}
	factor, err := totp.New(totp.Config{Store: vault, Issuer: h.cluster.Name, Now: s.cfg.Now})
	if err != nil {
		return nil, err
	}
	return login.New(
		login.Config{Cluster: h.cluster.Name, Key: key, Providers: providers, Factor: factor, Logins: h.state.Logins, Events: h.state.Events,
			AllowedOrigin: h.join.AllowedOrigin, Log: s.cfg.Log, Now: s.cfg.Now},
	)
}

// portConfig are what the port lets people in by. The anchors are the authorities themselves, so one that a
// rotation took away is trusted no more, whatever the root once signed.
func (s *Server) portConfig(h *services) port.RunConfig {
	public := h.keys.Public()
	trust := identity.Roots{Users: pool(public.UserX509), Services: pool(public.ServiceX509)}
	return port.RunConfig{
		Cluster: h.cluster.Name, Pin: h.keys.Pin(), Handler: h.api,
		Roots:           func() identity.Roots { return trust },
		Certificate:     s.own.Load,
		VerifyForwarded: h.join.VerifyForwarded,
	}
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// renewCertificate gives this replica a service certificate for a new key, which lives in memory alone.
func (s *Server) renewCertificate(ctx context.Context, h *services) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	chain, err := h.issuer.ForAuth(ctx, h.self, key.Public())
	if err != nil {
		return err
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	s.own.Store(cert)
	return nil
}

// retryRenew is how long a renewal that failed waits.
const retryRenew = time.Minute

// keepCertificate renews at two thirds of the certificate's life.
func (s *Server) keepCertificate(ctx context.Context, h *services) error {
	for {
		leaf := s.own.Load().Leaf
		wait := leaf.NotAfter.Sub(s.cfg.Now()) - leaf.NotAfter.Sub(leaf.NotBefore)/3
		timer := time.NewTimer(max(wait, retryRenew))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := s.renewCertificate(ctx, h); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("auth's own certificate could not be renewed", "until", leaf.NotAfter, "err", err)
		}
	}
}

func (s *Server) recordStart(ctx context.Context, h *services) error {
	e := events.NewEvent(events.AuthStarted, h.self, s.cfg.Now())
	e.Fields = map[string]string{"version": s.cfg.Version}
	return h.state.Events.AppendEvents(ctx, e)
}
