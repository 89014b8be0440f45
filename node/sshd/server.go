// Package sshd answers: who is this, may they, and what do they get?
//
// It is the SSH server at the inner end: what comes here was relayed by a proxy that can read none of it. It
// verifies the certificate itself, decides by the signed rules itself, and has the last word. RFC 4252
// (authentication) and RFC 4254 (connections).
package sshd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limit"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/forward"
	"github.com/threshold-access/threshold/node/process"
)

const (
	// firstOfferTimeout bounds the wait for the client's first offer of a key; handshakeTimeout bounds all of
	// the handshake, in which a person may have to touch a key.
	firstOfferTimeout = 10 * time.Second
	handshakeTimeout  = 30 * time.Second
	// maxConnections and maxSessions bound what clients can make this process hold.
	maxConnections           = 1000
	maxConnectionsPerAddress = 250 // of one client address
	maxSessions              = 64  // on one connection
	maxRefusals              = 32  // recorded on one connection; a client that goes on is only counted
	maxHandshakes            = 64  // not yet logged in, over all connections
	maxHandshakesPerAddress  = 16  // of one client address
)

// Config is what the server needs of its node.
type Config struct {
	Identity   func() identity.Identity   // this node's own
	HostSigner func() (ssh.Signer, error) // host key with its certificate
	Rules      func() *rules.Trust        // of the moment; nil: none yet
	Audit      func(audit.Event) error    // returns once the event is safe on disk
	Accounts   account.Database
	// Resolve finds the addresses of hosts that ports are forwarded to. Nil means the machine's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Now     func() time.Time
	Log     *slog.Logger
}

// Server serves SSH on connections that are handed to it.
type Server struct {
	cfg             Config
	connectionQuota *limit.Quota // of connections
	handshakeQuota  *limit.Quota
	sessionsPerUser sessionCounts
	windows         windows
	forwardLimits   *forward.Limits
	drainState
}

// New makes a server that serves nothing yet.
func New(cfg Config) *Server {
	return &Server{
		cfg:             cfg,
		connectionQuota: limit.NewQuota(maxConnections, maxConnectionsPerAddress),
		handshakeQuota:  limit.NewQuota(maxHandshakes, maxHandshakesPerAddress),
		drainState:      newDrainState(),
		forwardLimits:   forward.NewLimits(),
	}
}

// loginAttempt is where a connection came from.
type loginAttempt struct {
	from    string // the client's address as the proxy saw it
	proxy   string // its name
	by      string // "dial" or "ssh"
	refused bool   // the person was told why, and it is recorded

	plainKeys int  // keys without a certificate that were offered
	explained bool // a certificate was shown, or its lack was put into words
}

// Origin says how a connection came.
type Origin struct {
	From  string // the client's address and port as the proxy saw them
	Proxy string
	By    string
}

// Serve serves one connection, whose RemoteAddr is the client's address, until it ends or ctx does. It never
// panics: what goes wrong on a connection ends that connection.
func (s *Server) Serve(ctx context.Context, conn net.Conn, via Origin) {
	defer conn.Close()
	v := &loginAttempt{from: via.From, proxy: via.Proxy, by: via.By}
	defer s.recoverPanic(v, conn)
	leave, ok := s.connectionQuota.TryAcquire(via.From)
	if !ok {
		s.cfg.Log.Warn(
			"too many connections",
			"limit",
			maxConnections,
			"of one address",
			maxConnectionsPerAddress,
			"from",
			via.From,
		)
		return
	}
	defer leave()
	sc, chans, reqs, err := s.handshake(ctx, conn, v)
	if err != nil {
		if !v.refused {
			s.cfg.Log.Info("handshake failed", "from", v.from, "proxy", v.proxy, "err", err)
		}
		return
	}
	e, ok := evidenceOf(sc.Permissions)
	if !ok {
		s.cfg.Log.Error("a connection came through without an identity", "from", v.from)
		return
	}
	c := &connection{
		srv:     s,
		conn:    sc,
		attempt: v,
		key:     e.key,
		login:   e.login,
		who:     e.who,
		clock:   newLimitClock(e.who.Expires),
		live:    map[*sessionChannel]chan struct{}{},
		wakeups: make(chan struct{}, 1),
	}
	if s.register(c) {
		defer s.unregister(c)
		c.serve(ctx, chans, reqs)
	}
}

// handshake runs key exchange and authentication under a deadline.
func (s *Server) handshake(
	ctx context.Context,
	conn net.Conn,
	v *loginAttempt,
) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	turn, cancel := context.WithTimeout(ctx, firstOfferTimeout)
	defer cancel()
	leave, ok := s.handshakeQuota.Acquire(turn, v.from)
	if !ok {
		return nil, nil, nil, errors.New("too many handshakes at once")
	}
	defer leave()
	cfg, err := s.sshConfig(v)
	if err != nil {
		return nil, nil, nil, err
	}
	start := time.Now() // a deadline is about real time, whatever the injected clock says
	_ = conn.SetDeadline(start.Add(firstOfferTimeout))
	cfg.AuthLogCallback = func(ssh.ConnMetadata, string, error) { _ = conn.SetDeadline(start.Add(handshakeTimeout)) }
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	packets := coalesce.NewSSHConn(conn)
	sc, chans, reqs, err := ssh.NewServerConn(packets, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	packets.JoinPackets()
	return sc, chans, reqs, conn.SetDeadline(time.Time{})
}

// recoverPanic keeps a defect that one connection meets from ending the node.
func (s *Server) recoverPanic(v *loginAttempt, conn interface{ Close() error }) {
	if p := recover(); p != nil {
		conn.Close()
		s.cfg.Log.Error(
			"a connection met a defect",
			"from",
			v.from,
			"panic",
			fmt.Sprint(p),
			"stack",
			string(debug.Stack()),
		)
	}
}

// newEvent starts an audit event about the person at the other end.
func (s *Server) newEvent(
	code audit.Code,
	v *loginAttempt,
	who identity.Identity,
	login identity.Login,
	rule string,
) audit.Event {
	id := s.cfg.Identity()
	e := audit.NewEvent(code, who, s.cfg.Now())
	e.Machine, e.MachineID, e.Login, e.From, e.Proxy, e.Rule = id.Name, id.ID, login, v.from, v.proxy, rule
	return e
}

// auditRefusal records that a person who proved who they are was refused.
func (s *Server) auditRefusal(v *loginAttempt, e evidence, rule, what string, err error) {
	login := e.login
	if identity.CheckLogin(login) != nil {
		login = ""
	}
	ev := s.newEvent(audit.SessionRefused, v, e.who.Identity, login, rule)
	ev.Reason = audit.Truncate(stripControls(fault.Message(err)))
	ev.Fields = map[string]string{"what": what, "by": v.by}
	s.cfg.Log.Info(
		"refused",
		"user",
		e.who.Name,
		"login",
		login,
		"what",
		what,
		"from",
		v.from,
		"reason",
		ev.Reason,
	)
	if err := s.cfg.Audit(ev); err != nil {
		s.cfg.Log.Warn("a refusal could not be recorded", "err", err)
	}
}

func newSessionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// connection is one that is logged in.
type connection struct {
	srv     *Server
	conn    *ssh.ServerConn
	attempt *loginAttempt
	key     ssh.PublicKey // the certificate that the client proved to hold
	who     identity.SSHUser
	login   identity.Login
	clock   *limitClock

	forwards    *forward.Forwarder
	agentSocket func(rule string) (path string, err error) // gives the socket by which programs reach the client's agent
	wakeups     chan struct{}                              // has a value when a session was left since it was last read; of watch

	mu             sync.Mutex                        // guards what follows
	live           map[*sessionChannel]chan struct{} // sessions in which a program runs; each is closed when its client was told how that ended
	endReason      *endReason                        // set once the node ends the connection
	helper         *asaccount.Sockets                // nil until something is forwarded
	sessions       int
	refusals       int
	noMoreSessions bool // the client wants no further sessions (OpenSSH PROTOCOL section 2.2)
}

func (c *connection) serve(ctx context.Context, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	sessions, end := context.WithCancelCause(ctx)
	defer end(nil)
	var running sync.WaitGroup
	c.forwards = c.newForwards()
	defer func() { cancel(); c.closeForwards() }()
	c.agentSocket = func(rule string) (string, error) { return c.forwards.Agent(sessions, rule) }
	running.Go(func() {
		defer ssh.DiscardRequests(reqs)
		defer c.srv.recoverPanic(c.attempt, c.conn)
		c.serveGlobalRequests(sessions, reqs)
	})
	running.Go(func() {
		defer c.srv.recoverPanic(c.attempt, c.conn)
		if why := c.watch(ctx); why != nil {
			c.end(ctx, why, end)
			cancel()
		}
	})
	for nc := range chans {
		if serve := c.admitChannelRecovered(sessions, nc); serve != nil { // one after the other: a client that floods waits for its own answers
			giveBack := c.srv.windows.assign(nc)
			running.Go(func() { defer c.srv.recoverPanic(c.attempt, c.conn); defer giveBack(); serve() })
		}
	}
	cancel() // the connection is gone: so is everything in it
	running.Wait()
}

// admitChannelRecovered is open, in which a defect ends the connection and not this loop over its channels.
// Requests and channels that nobody takes hold up all that comes by a connection, its end included; so
// whoever stops taking them early takes the rest once the connection is closed.
func (c *connection) admitChannelRecovered(ctx context.Context, nc ssh.NewChannel) (serve func()) {
	defer c.srv.recoverPanic(c.attempt, c.conn)
	return c.admitChannel(ctx, nc)
}

// serveGlobalRequests answers every global request.
func (c *connection) serveGlobalRequests(ctx context.Context, reqs <-chan *ssh.Request) {
	for r := range reqs {
		reply, err := c.handleGlobalRequest(ctx, r)
		if err != nil {
			c.srv.cfg.Log.Debug(
				"request refused",
				"user",
				c.who.Name,
				"request",
				printable(r.Type),
				"err",
				err,
			)
			if dial.ReadsRefusalReasons(c.conn.ClientVersion()) {
				reply = []byte(rejectionText(err))
			}
		}
		_ = r.Reply(err == nil, reply) // without WantReply it does nothing; otherwise the connection is gone
	}
}

// handleGlobalRequest authorises one global request and does what it asks for.
func (c *connection) handleGlobalRequest(ctx context.Context, r *ssh.Request) (reply []byte, err error) {
	d := requestKey{globalRequest, r.Type}
	rule, err := c.authorize(d)
	if err != nil {
		if policies[d].action != "" {
			c.auditRefusal(rule, describeRequest(r.Type, r.Payload), err)
		}
		return nil, err
	}
	switch {
	case r.Type == "no-more-sessions@openssh.com":
		c.mu.Lock()
		c.noMoreSessions = true
		c.mu.Unlock()
	case policies[d].action != "":
		return c.handleForwardRequest(ctx, r, rule)
	}
	return nil, nil
}

// admitChannel decides about a channel that the client opens, and turns away what may not be. It returns what
// serves the channel.
func (c *connection) admitChannel(ctx context.Context, nc ssh.NewChannel) (serve func()) {
	d := requestKey{channelOpen, nc.ChannelType()}
	rule, err := c.authorize(d)
	if err != nil {
		reason := ssh.UnknownChannelType
		if _, known := policies[d]; known {
			reason = ssh.Prohibited
			c.auditRefusal(rule, describeRequest(d.name, nc.ExtraData()), err)
		}
		_ = nc.Reject(reason, rejectionText(err))
		return nil
	}
	if policies[d].action != "" {
		serve, err := c.prepareDirect(ctx, nc, rule)
		if err != nil {
			_ = nc.Reject(forward.RejectionReason(err), rejectionText(err))
		}
		return serve
	}
	asked, err := dial.ParseEarlyRequests(nc.ExtraData())
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, rejectionText(malformed("for a session", err)))
		return nil
	}
	if err := c.reserveSession(); err != nil {
		_ = nc.Reject(ssh.ResourceShortage, rejectionText(err))
		return nil
	}
	return func() { c.serveSession(ctx, nc, asked) }
}

// serveSession serves a channel that was let in.
func (c *connection) serveSession(ctx context.Context, nc ssh.NewChannel, asked []dial.ChannelRequest) {
	defer c.releaseSession()
	ch, reqs, err := nc.Accept() // at once: requests that come before are lost
	if err != nil {
		return
	}
	defer ssh.DiscardRequests(reqs)
	defer c.srv.recoverPanic(c.attempt, c.conn)
	defer ch.Close()
	(&sessionChannel{conn: c, ch: ch, env: process.Env{}}).serve(ctx, asked, reqs)
}

func rejectionText(err error) string {
	s := stripControls(fault.Message(err))
	if hint := fault.Remedy(err); hint != "" {
		s += " (" + stripControls(hint) + ")"
	}
	return s
}

func (c *connection) reserveSession() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noMoreSessions {
		return fault.New(
			fault.Denied,
			"node",
			"this connection takes no further sessions",
			"open a new connection",
		)
	}
	if c.sessions >= maxSessions {
		return fault.New(
			fault.Exhausted,
			"node",
			fmt.Sprintf("this connection has %d sessions already", c.sessions),
			"end one, or open a new connection",
		)
	}
	c.sessions++
	return nil
}

func (c *connection) releaseSession() {
	c.mu.Lock()
	c.sessions--
	c.mu.Unlock()
	c.wake()
}

// wake has the connection looked at again: something on it has ended.
func (c *connection) wake() {
	select {
	case c.wakeups <- struct{}{}:
	default:
	}
}

// auditRefusal records a refusal, unless the connection has had its share: nobody fills the record, or the
// disk, by asking again.
func (c *connection) auditRefusal(rule, what string, err error) {
	c.mu.Lock()
	c.refusals++
	n := c.refusals
	c.mu.Unlock()
	switch {
	case n <= maxRefusals:
		c.srv.auditRefusal(c.attempt, evidence{who: c.who, login: c.login}, rule, what, err)
	case n == maxRefusals+1:
		c.srv.cfg.Log.Warn(
			"further refusals on this connection are not recorded",
			"user",
			c.who.Name,
			"login",
			c.login,
			"from",
			c.attempt.from,
		)
	}
}
