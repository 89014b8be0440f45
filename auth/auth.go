// Package auth answers: how do the rooms of the auth service belong together?
//
// Auth knows and signs: it is the cluster's replicated memory and its certificate authority behind one port.
// This package only wires: it opens the store, gives birth to the cluster or opens its keys, makes the rooms
// and runs them. Each room says what it is for.
//
// Nothing here, and no other way, lets a local account in without a certificate. Invite is for the program
// that auth runs in.
package auth

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/port"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
)

// Config says what an auth replica needs.
type Config struct {
	// Dir is the data folder, made at birth. Required.
	Dir string
	// Listener is the open socket of the auth port; the server closes it. Required.
	Listener net.Listener
	// Bootstrap is the file a cluster is born from. It is required on an empty data folder and refused on any
	// other.
	Bootstrap []byte
	// ResumeBootstrap opens the cluster that Bootstrap names where it was born already: for a caller who was
	// killed before it knew.
	ResumeBootstrap bool
	// BootstrapName is what faults call that file.
	BootstrapName string
	// ReplicaID names this replica among the members for ever: a lower-case host name. Required.
	ReplicaID string
	// Version is the release, for the audit log.
	Version string
	// Log gets what an operator should know. Required.
	Log *slog.Logger
	// Now is the clock. Zero means time.Now.
	Now func() time.Time
}

// Server is one auth replica.
type Server struct {
	cfg   Config
	birth *bootstrap // nil: the cluster is there already
	store *raftstore.Store
	port  *port.Port

	own      atomic.Pointer[tls.Certificate] // what the port shows
	ready    chan struct{}                   // closed when the port is open
	ended    chan struct{}                   // closed when Run has ended
	err      error                           // why; set before ended is closed
	services *services                       // set before ready is closed
	started  atomic.Bool
}

// storeDir is where in the data folder the replicated store is.
const storeDir = "store"

// New checks the configuration, the bootstrap file with it. It starts nothing and opens nothing.
func New(cfg Config) (*Server, error) { return newServer(cfg, func(*raftstore.Config) {}) }

// newServer lets tests put another disk under the store.
func newServer(cfg Config, adjust func(*raftstore.Config)) (*Server, error) {
	if cfg.Dir == "" || cfg.Listener == nil || cfg.Log == nil {
		return nil, fault.New(
			fault.Internal,
			"auth.New",
			"the data folder, the listener or the log is missing",
			"report this defect",
		)
	}
	if err := identity.CheckMachineName(cfg.ReplicaID); err != nil {
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			"auth.New",
			"the replica id: "+err.Error(),
			"give auth.replica a lower-case host name",
		)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, ready: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if cfg.Bootstrap != nil {
		if s.birth, err = readBootstrap(cfg.BootstrapName, cfg.Bootstrap); err != nil {
			return nil, err
		}
	}
	if s.port, err = port.New(port.Config{Listener: cfg.Listener, Log: cfg.Log, Now: cfg.Now}); err != nil {
		return nil, err
	}
	// A folder without a log is always made a cluster of one: several replicas join by a call of their own.
	store := raftstore.Config{
		Dir:       filepath.Join(cfg.Dir, storeDir),
		ReplicaID: cfg.ReplicaID,
		Stream:    s.port.Raft(),
		Bootstrap: true,
		Log:       cfg.Log,
		Now:       cfg.Now,
	}
	adjust(&store)
	s.store, err = raftstore.New(store)
	return s, err
}

// Run serves until ctx ends, and then returns nil. Where the disk fails it goes on answering what it can from
// memory, refuses every change with what to do, and returns that fault in the end.
func (s *Server) Run(ctx context.Context) (err error) {
	if s.started.Swap(true) {
		return fault.New(fault.Internal, "auth.Run", "this server was run before", "make a new one")
	}
	defer func() {
		s.err = err
		close(s.ended)
	}()
	defer s.port.Close() // where serve did not come so far
	if err := s.checkFolder(); err != nil {
		return err
	}
	// The store goes last: what is under way when ctx ends may still be committed.
	storeCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	stored := make(chan error, 1)
	go func() { stored <- s.store.Run(storeCtx) }()
	served := s.serve(ctx)
	if s.opened() {
		s.cfg.Log.Info(
			"auth stopped",
			"connections",
			s.port.Counts(),
			"logins_refused",
			s.services.logins.Refusals(),
		)
	}
	stop()
	if err := <-stored; err != nil {
		return err // it is also what serve failed of, if it did
	}
	if ctx.Err() != nil && errors.Is(served, context.Canceled) {
		return nil
	}
	return served
}

// checkFolder refuses to open what is not there, before anything is made.
func (s *Server) checkFolder() error {
	_, err := os.Stat(filepath.Join(s.cfg.Dir, storeDir))
	if errors.Is(err, fs.ErrNotExist) && s.birth == nil {
		return fault.New(
			fault.NotFound,
			"auth.Run",
			"there is no cluster in "+s.cfg.Dir+" yet",
			"run once: threshold start --bootstrap FILE",
		)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(
			err,
			fault.Internal,
			"auth.Run",
			"the data folder "+s.cfg.Dir+" cannot be looked at",
			"check its owner and rights",
		)
	}
	return nil
}

// serve opens the cluster, then the port, and runs the rooms until ctx ends.
func (s *Server) serve(ctx context.Context) error {
	if err := s.store.Ready(ctx); err != nil {
		return err
	}
	h, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer h.keys.Wipe()
	if err := s.renewCertificate(ctx, h); err != nil {
		return err
	}
	if err := h.publisher.Publish(ctx); err != nil {
		return err
	}
	if err := s.recordStart(ctx, h); err != nil {
		return err
	}
	s.services = h
	close(s.ready)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.port.Run(ctx, s.portConfig(h)) })
	g.Go(func() error { return h.publisher.Run(ctx) })
	g.Go(func() error { return s.keepCertificate(ctx, h) })
	return g.Wait()
}

// Ready waits until callers are let in. A server that ends before is a fault.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		if s.err != nil {
			return s.err
		}
		return fault.New(fault.Unavailable, "auth.Ready", "auth has stopped", "start it again")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// opened reports whether Ready has been reached.
func (s *Server) opened() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// Pin is the hash of the cluster root's key; zero before Ready.
func (s *Server) Pin() identity.Pin {
	if !s.opened() {
		return identity.Pin{}
	}
	return s.services.keys.Pin()
}

// Cluster is the cluster's name; "" before Ready.
func (s *Server) Cluster() string {
	if !s.opened() {
		return ""
	}
	return s.services.keys.Cluster()
}

// RootPEM is the cluster root's certificate; nil before Ready.
func (s *Server) RootPEM() []byte {
	if !s.opened() {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.services.keys.Root().Raw})
}

// Counts tells how the port is used.
func (s *Server) Counts() port.Counts { return s.port.Counts() }

// Invite makes a join token for a part that runs in this very process: whoever can call it holds auth's
// memory already.
func (s *Server) Invite(
	ctx context.Context,
	kind identity.Kind,
	labels identity.Labels,
	ttl time.Duration,
) (authrpc.Token, error) {
	if err := s.Ready(ctx); err != nil {
		return authrpc.Token{}, err
	}
	t, _, err := s.services.join.Create(ctx, join.TokenRequest{Kind: kind, Labels: labels, TTL: ttl})
	return t, err
}
