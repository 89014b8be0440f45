package auth

import (
	"context"
	"crypto/x509"
	"net/http"

	"github.com/threshold-access/threshold/auth/api"
	"github.com/threshold-access/threshold/auth/attachments"
	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/authorities"
	"github.com/threshold-access/threshold/auth/bootstrap"
	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/issue"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/owncert"
	"github.com/threshold-access/threshold/auth/port"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/rootkey"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// services are the parts of an open cluster.
type services struct {
	cluster     state.Cluster
	replica     identity.Identity // this replica
	state       *state.State
	keys        *keyring.Keyring
	publisher   *rules.Publisher
	join        *join.Service
	issuer      *issue.Issuer
	certificate *owncert.Keeper
	logins      *login.Service
	auditLog    *audit.Log
	api         http.Handler
}

// open returns the services over the cluster in the store, with the cluster's keys open. If the server was
// given a bootstrap file, open first creates the cluster. The caller wipes services.keys.
func (s *Server) open(ctx context.Context) (_ *services, err error) {
	records := state.New(s.store)
	if err := s.createOnce(ctx, records); err != nil {
		return nil, err
	}
	svc := &services{state: records}
	if svc.cluster, err = records.Cluster(ctx); err != nil {
		return nil, err
	}
	seal, err := keyring.OpenSeal(svc.cluster.Seal)
	if err != nil {
		return nil, err
	}
	if svc.keys, err = keyring.Open(ctx, records.Keyring, seal); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			svc.keys.Wipe()
		}
	}()
	id, err := records.Replicas.Replica(ctx, s.cfg.ReplicaID, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	svc.replica = identity.Identity{
		Kind:    identity.Auth,
		Cluster: svc.cluster.Name,
		Name:    s.cfg.ReplicaID,
		ID:      id,
	}
	if err := s.buildServices(svc); err != nil {
		return nil, err
	}
	return svc, nil
}

// createOnce returns nil if the store holds a cluster that may be opened. With a bootstrap file it creates
// the cluster in an empty store. An empty store without a bootstrap file is fault NotFound. A bootstrap file
// for a store that holds a cluster is fault Conflict, unless it names that cluster and Config.ResumeBootstrap
// is set.
func (s *Server) createOnce(ctx context.Context, st *state.State) error {
	empty, err := st.Empty(ctx)
	switch {
	case err != nil:
		return err
	case empty && s.bootstrap == nil:
		return s.noClusterFault()
	case empty:
		return s.createCluster(ctx, st)
	case s.bootstrap == nil:
		return nil
	}
	existing, err := st.Cluster(ctx)
	if err == nil && s.cfg.ResumeBootstrap && existing.Name == s.bootstrap.Cluster() {
		return nil
	}
	return clusterExists.New("auth.Run", fault.Args{"folder": s.cfg.Dir})
}

// createCluster creates the cluster of the bootstrap file, with a new seal key if the file's does not exist.
func (s *Server) createCluster(ctx context.Context, st *state.State) error {
	seal, err := s.bootstrap.OpenSeal(s.cfg.Log)
	if err != nil {
		return err
	}
	return s.bootstrap.Create(ctx, bootstrap.Config{
		Store:    func(secrets state.Seal) bootstrap.Store { return state.NewVault(st, secrets) },
		Seal:     seal,
		Now:      s.cfg.Now(),
		Log:      s.cfg.Log,
		KeepRoot: s.writeRootKey,
	})
}

// writeRootKey writes the root key of a new cluster to the file that the configuration names.
func (s *Server) writeRootKey(key *keyring.RootKey) error {
	file := s.cfg.RootKey
	protect := rootkey.Protection{Recipients: file.Recipients, Passphrase: file.Passphrase}
	if err := rootkey.Write(file.Path, key, protect); err != nil {
		return err
	}
	s.cfg.Log.Info("root key written: keep the file away from every server; without it no authority can be "+
		"replaced", "file", file.Path)
	return nil
}

// buildServices sets the services of svc, each after those that it needs. svc has the cluster, the replica,
// the state and the keys already. It starts nothing.
func (s *Server) buildServices(svc *services) error {
	cluster, now, log := svc.cluster.Name, s.cfg.Now, s.cfg.Log
	svc.publisher = rules.New(rules.Config{
		Source:  svc.state.Rules,
		Cluster: cluster,
		Signer:  svc.keys.RulesSigner(),
		Now:     now,
		Log:     log,
	})
	svc.join = join.New(join.Config{
		Reader:   svc.state.Reader,
		Machines: svc.state.Machines,
		Tokens:   svc.state.Tokens,
		Cluster:  cluster,
		Pin:      svc.keys.Pin(),
		Now:      now,
	})
	signer, err := ca.New(ca.Config{
		Cluster: cluster,
		Keys:    svc.keys,
		Now:     now,
	})
	if err != nil {
		return err
	}
	svc.issuer = issue.New(issue.Config{
		CA:        signer,
		Policies:  svc.state.Reader,
		Renewals:  svc.state.Machines,
		Issuances: svc.state.Issuances,
		Rules:     svc.publisher,
		Cluster:   cluster,
		Now:       now,
	})
	svc.certificate = owncert.New(owncert.Config{
		Issuer:   svc.issuer,
		Identity: svc.replica,
		Now:      now,
		Log:      log,
	})
	vault := state.NewVault(svc.state, svc.keys.Secrets())
	if svc.logins, err = s.newLogin(svc, vault); err != nil {
		return err
	}
	svc.auditLog = audit.New(audit.Config{Store: svc.state.Events, Now: s.cfg.Now, Log: s.cfg.Log})
	svc.api = s.newAPI(svc, vault.Connectors)
	return nil
}

// newLogin makes the login service with its OpenID Connect providers and its second factor. It opens the
// login key, and overwrites it after the service has made its cipher from it.
func (s *Server) newLogin(svc *services, vault *state.Vault) (*login.Service, error) {
	key, err := svc.keys.Secrets().Open(state.LoginKeySeal, svc.cluster.LoginKey)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	providers, err := oidc.New(oidc.Config{Source: vault.Connectors.ConnectorReader, Now: s.cfg.Now})
	if err != nil {
		return nil, err
	}
	factors, err := factor.New(factor.Config{
		Store:   vault.Factors,
		Methods: []factor.Method{totp.Method{Issuer: svc.cluster.Name}},
		Now:     s.cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	return login.New(login.Config{
		Cluster:       svc.cluster.Name,
		Key:           key,
		Providers:     providers,
		Factors:       factors,
		Attempts:      vault.Attempts,
		Logins:        svc.state.Logins,
		Events:        svc.state.Events,
		AllowedOrigin: svc.join.AllowedOrigin,
		Log:           s.cfg.Log,
		Now:           s.cfg.Now,
	})
}

// newAPI makes the handler of the API, and the services that no other part of auth uses.
func (s *Server) newAPI(svc *services, connectors *state.Connectors) http.Handler {
	now := s.cfg.Now
	acknowledgements := rules.NewAcknowledgements(rules.AcknowledgementsConfig{
		Machines: svc.state.Reader,
		Now:      now,
		Log:      s.cfg.Log,
	})
	return api.New(api.Config{
		Caller:           port.CallerOf,
		State:            svc.state.Reader,
		Login:            svc.logins,
		Join:             svc.join,
		Issuer:           svc.issuer,
		Rules:            svc.publisher,
		Acknowledgements: acknowledgements,
		Nodes: attachments.NewDirectory(attachments.DirectoryConfig{
			Machines:    svc.state.Reader,
			Attachments: svc.state.Reader,
			Policies:    svc.state.Reader,
			Cluster:     svc.cluster.Name,
			Now:         now,
		}),
		Attachments: attachments.NewUpdater(attachments.UpdaterConfig{
			Reader: svc.state.Reader,
			Writer: svc.state.Attachments,
			Now:    now,
			Log:    s.cfg.Log,
		}),
		Resources: resources.New(resources.Config{
			Policies:      svc.state.Reader,
			Events:        svc.state.Events,
			Roles:         svc.state.Roles,
			Settings:      svc.state.Settings,
			Connectors:    connectors,
			Users:         svc.state.Users,
			Tokens:        svc.state.Tokens,
			Join:          svc.join,
			Machines:      svc.state.Machines,
			Replicas:      svc.state.Reader,
			Locks:         svc.state.Locks,
			Confirmations: acknowledgements,
			Authorities: &authorities.Service{
				Store:   svc.state.RootChanges,
				Keyring: svc.state.Keyring,
				Keys:    svc.keys,
				Now:     now,
			},
			Log: svc.auditLog,
			Now: now,
		}),
		Log:    svc.auditLog,
		Now:    now,
		Logger: s.cfg.Log,
	})
}

// portConfig is what the port needs of an open cluster. It trusts the certificates of the current authorities
// and not the cluster root. An authority that a rotation removed is therefore no longer trusted, although the
// root has signed its certificate.
func portConfig(svc *services) port.RunConfig {
	public := svc.keys.Public()
	users, services := newPool(public.UserX509), newPool(public.ServiceX509)
	return port.RunConfig{
		Cluster:         svc.cluster.Name,
		Pin:             svc.keys.Pin(),
		Roots:           identity.Roots{Users: users, Services: services},
		Certificate:     svc.certificate.Certificate,
		Handler:         svc.api,
		VerifyForwarded: svc.join.VerifyForwarded,
	}
}

func newPool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// recordStart writes the audit event that this replica has started.
func (s *Server) recordStart(ctx context.Context, svc *services) error {
	e := events.New(s.cfg.Now(), svc.replica, events.AuthStart{Version: s.cfg.Version})
	return svc.state.Events.AppendEvents(ctx, e)
}
