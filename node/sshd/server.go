// Package sshd answers: who is this, may they, and what do they get?
//
// It is the SSH server on the node, at the inner end of a tunnel stream: the proxy relays what comes here and
// can read none of it. The server verifies the certificate itself, decides by the signed rules itself, and
// has the last word. RFC 4252 (authentication) and RFC 4254 (connections) say what is on the wire.
//
// A connection goes through these files: server.go accepts it, handshake.go and login.go authenticate it,
// connection.go holds what is logged in, requests.go receives what the client asks for, authorize.go decides
// about each of it, admission.go and channel.go serve session channels, program.go runs their programs, and
// forward.go leads to package forward. open.go decides again about what is open, and limit.go and
// endreason.go end it.
package sshd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limit"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/forward"
)

// These bound what clients can make this process hold.
const (
	maxConnections           = 1000
	maxConnectionsPerAddress = 250 // from one client address
	maxHandshakes            = 64  // not yet logged in, over all connections
	maxHandshakesPerAddress  = 16  // from one client address
)

// Config is what the server needs from its node. All fields but Resolve and Denied are required.
type Config struct {
	// Identity returns the node's own identity.
	Identity func() identity.Identity
	// HostSigner returns the host key with its current certificate. It is called for each handshake.
	HostSigner func() (ssh.Signer, error)
	// Rules are the rules in force.
	Rules open.Rules
	// Audit records an event. It returns nil when the event is safe on disk, and an error if it is not:
	// sessions and forwards then do not start.
	Audit func(audit.Event) error
	// Accounts are the accounts that sessions may run as.
	Accounts account.Database
	// Resolve finds the addresses of hosts that ports are forwarded to. Nil means the machine's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Denied is called with what is open and no longer allowed, before the server ends it. Nil: it is logged.
	Denied func([]open.Denial)
	// Now is the clock for certificates, rules and events.
	Now func() time.Time
	Log *slog.Logger
}

// Server serves SSH on connections that are handed to it.
type Server struct {
	cfg             Config
	connectionQuota *limit.Quota                   // open connections, in all and for each client address
	handshakeQuota  *limit.Quota                   // those of them that are not logged in yet
	sessionsPerUser limit.PerKey[identity.UserKey] // sessions that run, over all connections of a user
	windows         windows                        // what clients may send ahead, over all connections
	open            *open.Registry                 // connections, sessions and forwards
	forwardLimits   *forward.Limits                // what is forwarded, over all connections
	drainState
}

// New returns a server with the configuration. It starts nothing: Serve serves a connection, Run decides
// about what is open, Drain stops the server.
func New(cfg Config) *Server {
	if cfg.Denied == nil {
		cfg.Denied = (&open.Log{Log: cfg.Log}).Denied
	}
	s := &Server{
		cfg:             cfg,
		connectionQuota: limit.NewQuota(maxConnections, maxConnectionsPerAddress),
		handshakeQuota:  limit.NewQuota(maxHandshakes, maxHandshakesPerAddress),
		forwardLimits:   forward.NewLimits(),
		drainState:      newDrainState(),
	}
	s.open = open.New(open.Config{Rules: cfg.Rules, Now: cfg.Now, Denied: s.endDenied})
	return s
}

// Origin says where a connection came from. The proxy that relays the connection says so, and the node cannot
// check it.
type Origin struct {
	From     netip.AddrPort // the client's address and port as the proxy saw them
	Proxy    string         // the name of the proxy whose tunnel it is
	ProxyID  identity.MachineID
	Protocol string // how the client came to the proxy: "dial" or "ssh"
	// Connection is the id that the proxy has drawn.
	Connection identity.ConnectionID
	// Features is what the client understands, as it told the proxy. Clients without a dial request say
	// nothing.
	Features wire.Features
}

// readsFaults reports whether the client gets errors as faults: see dial.Faults.
func (o Origin) readsFaults() bool { return o.Features.Has(dial.Faults) }

// Features is what this server understands, for clients. The node tells its proxies, which tell clients
// before SSH begins, and the server tells its clients itself: see dial.FeaturesNotice.
func Features() wire.Features { return wire.Features{dial.EarlyRequests, dial.CertificateUpdates} }

var featuresNotice = dial.MarshalFeatures(Features())

// Serve logs a client in on conn and serves its sessions and forwards, until the client hangs up, the node
// ends the connection, or ctx ends. It closes conn before it returns. conn.RemoteAddr must be the client's
// address, against which certificates with a source address are checked. Quotas and roles use origin.From.
//
// A connection over the quota is closed without a message. Serve returns no error: why a login failed or a
// connection ended is in the log, and in the audit log if the user is known. It never panics: a panic while
// it serves the connection is logged and ends that connection only.
func (s *Server) Serve(ctx context.Context, conn net.Conn, origin Origin) {
	defer conn.Close()
	defer s.recoverPanic(origin, conn)
	release, ok := s.connectionQuota.TryAcquire(origin.From.String())
	if !ok {
		s.cfg.Log.Warn("too many connections", "from", origin.From,
			"limit", maxConnections, "limit_per_address", maxConnectionsPerAddress)
		return
	}
	defer release()
	attempt := &loginAttempt{Origin: origin}
	sshConn, opens, requests, err := s.handshake(ctx, conn, attempt)
	if err != nil {
		if !attempt.refused { // the log and the audit log have the refusal already
			s.cfg.Log.Info("handshake failed", "from", origin.From, "proxy", origin.Proxy,
				"connection", origin.Connection, "err", err)
		}
		return
	}
	proved, ok := evidenceOf(sshConn.Permissions)
	if !ok { // a defect: no login succeeds without evidence
		s.cfg.Log.Error("a connection logged in without an identity", "from", origin.From)
		return
	}
	c := newConnection(s, sshConn, origin, proved)
	if s.register(c) { // false: the server began to drain after the login was decided
		defer s.unregister(c)
		defer s.open.AddDecided(c.held.use, c.held, proved.head).Remove()
		c.serve(ctx, opens, requests)
	}
}

// recoverPanic keeps a panic in one connection from ending the node: it logs the panic and closes the
// connection. It must be deferred directly, because recover has no effect in a deeper call, and on each
// goroutine that serves the connection.
func (s *Server) recoverPanic(origin Origin, conn interface{ Close() error }) {
	if p := recover(); p != nil {
		conn.Close()
		s.cfg.Log.Error("panic on a connection",
			"from", origin.From, "connection", origin.Connection,
			"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}
