package jump

import (
	"context"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

const (
	// sshHandshakeTimeout bounds everything before the user is known.
	sshHandshakeTimeout = 10 * time.Second
	// idleTimeout is how long a connection may stay without a channel.
	idleTimeout = time.Minute
)

// ServeSSH serves one SSH connection until it ends or ctx does, and closes conn. The server opens
// direct-tcpip channels to nodes, as ssh -J asks for them, and refuses everything else.
//
// It calls peerKnown once the user is known. The error says why the user never became known. For a client
// that tried to authenticate it is fault.Denied for an invalid certificate, fault.Expired for one that has
// only expired, and fault.Unauthenticated when there was none.
func (s *Server) ServeSSH(ctx context.Context, conn net.Conn, peerKnown func(identity.Identity)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	log := s.cfg.Log.With("from", conn.RemoteAddr(), "protocol", "ssh")
	_ = conn.SetDeadline(time.Now().Add(sshHandshakeTimeout))
	sc, channels, requests, err := s.handshake(conn)
	if err != nil {
		log.Debug("ssh handshake failed", "err", err)
		return err
	}
	defer sc.Close()
	_ = conn.SetDeadline(time.Time{})
	user, ok := sc.Permissions.ExtraData[userKey{}].(identity.SSHUser)
	if !ok {
		log.Error("the ssh handshake succeeded without an identity")
		return nil
	}
	peerKnown(user.Identity)
	log = log.With("user", user.Name, "login_id", user.LoginID)
	release, err := s.acquire(user.Identity)
	if err != nil {
		log.Info("user refused", "err", err)
		return nil
	}
	defer release()
	log.Info("ssh user connected")
	var discard sync.WaitGroup
	discard.Go(func() { ssh.DiscardRequests(requests) }) // refuses every global request
	s.serveChannels(ctx, caller{user.Identity, conn.RemoteAddr(), "ssh"}, sc, channels)
	discard.Wait()
	return nil
}

// userKey is the key of the verified user in the Permissions of the accepted public key. The identity is
// taken from nowhere else: a client may offer several keys before it proves one.
type userKey struct{}

// authentication is the state of one connection's authentication. All its methods are called by the
// goroutine that does the handshake.
type authentication struct {
	*Server
	tried   bool         // the client has sent an authentication request
	refusal *fault.Error // what the client hears when no key is accepted
}

// handshake does the SSH handshake and authenticates the user.
func (s *Server) handshake(
	conn net.Conn,
) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	host, err := s.cfg.HostSigner()
	if err != nil {
		return nil, nil, nil, err
	}
	auth := &authentication{Server: s, refusal: fault.New(fault.Unauthenticated, "proxy.ServeSSH",
		"this proxy accepts only certificates; your client offered none",
		"run: tsh login, then configure your client to use the certificate")}
	cfg := sshprofile.NewServerConfig(host)
	cfg.AuthLogCallback = func(ssh.ConnMetadata, string, error) { auth.tried = true }
	cfg.PublicKeyCallback = auth.publicKey
	// OpenSSH, PuTTY and others try this method when no key was accepted. It asks nothing and always fails,
	// and its banner tells the user what to do.
	cfg.KeyboardInteractiveCallback = func(
		ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge,
	) (*ssh.Permissions, error) {
		return nil, sshprofile.Banner(auth.refusal)
	}
	sc, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil && auth.tried {
		why := auth.refusal
		err = fault.Wrap(err, why.Kind, why.Op, why.Msg, why.Remedy)
	}
	return sc, channels, requests, err
}

// publicKey verifies the certificate that the client offers. The client may offer a key without proving
// that it has the private key; x/crypto/ssh uses the Permissions only after the proof.
func (a *authentication) publicKey(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	now, authorities := a.cfg.Now(), a.cfg.Rules.Current().Authorities.UserSSH
	verifyAt := func(t time.Time) (identity.SSHUser, error) {
		return identity.VerifySSHUser(key, a.cfg.Cluster, authorities, meta.RemoteAddr(), t)
	}
	user, err := verifyAt(now)
	if err == nil {
		return &ssh.Permissions{ExtraData: map[any]any{userKey{}: user}}, nil
	}
	a.cfg.Log.Debug("ssh key refused", "from", meta.RemoteAddr(), "err", err)
	// Of several certificates, an expired one of this cluster explains the refusal best.
	_, isCert := key.(*ssh.Certificate)
	switch {
	case identity.OnlyExpired(err, now, func(t time.Time) error { _, err := verifyAt(t); return err }):
		a.refusal = fault.New(fault.Expired, "proxy.ServeSSH",
			"your certificate has expired", "run: tsh login")
	case isCert && a.refusal.Kind != fault.Expired:
		a.refusal = fault.New(fault.Denied, "proxy.ServeSSH",
			"this proxy does not accept your certificate", "run: tsh login")
	}
	return nil, err
}

// serveChannels serves the channels of a connection, each in a goroutine, until the connection ends, and
// waits for them.
//
// A channel counts as one more connection of the user, because a tool may use one SSH connection for all
// its nodes. The idle timer runs while no channel is open and closes the connection.
func (s *Server) serveChannels(
	ctx context.Context, who caller, sc *ssh.ServerConn, channels <-chan ssh.NewChannel,
) {
	ctx, cancel := context.WithCancel(ctx)
	var open atomic.Int32 // channels being served
	idle := time.AfterFunc(idleTimeout, func() {
		// A channel may have opened while the one before it was starting the timer again.
		if open.Load() == 0 {
			sc.Close()
		}
	})
	var serving sync.WaitGroup
	defer idle.Stop() // last, because the last channel to end starts the timer again
	defer serving.Wait()
	defer cancel()
	for nc := range channels {
		release, err := s.acquire(who.Identity)
		if err != nil {
			_ = nc.Reject(ssh.ResourceShortage, rejectMessage(fault.Public(err)))
			continue
		}
		open.Add(1)
		idle.Stop()
		serving.Go(func() {
			defer func() {
				if release(); open.Add(-1) == 0 {
					idle.Reset(idleTimeout)
				}
			}()
			defer s.recover(sc)
			s.serveChannel(ctx, who, nc)
		})
	}
}

// recover limits a panic to its own connection. It is called deferred.
func (s *Server) recover(sc *ssh.ServerConn) {
	if r := recover(); r != nil {
		s.cfg.Log.Error("panic while serving a channel",
			"from", sc.RemoteAddr(), "panic", r, "stack", string(debug.Stack()))
		sc.Close()
	}
}

// directTCPIP is the payload of a direct-tcpip channel (RFC 4254 section 7.2). The port is ignored, as a
// node has one service.
type directTCPIP struct {
	Host     string
	Port     uint32
	FromHost string
	FromPort uint32
}

// serveChannel opens the stream to the node and relays until it ends.
func (s *Server) serveChannel(ctx context.Context, who caller, nc ssh.NewChannel) {
	if nc.ChannelType() != "direct-tcpip" {
		_ = nc.Reject(ssh.Prohibited, "this proxy only connects to nodes; use: ssh -J PROXY NODE")
		return
	}
	var target directTCPIP
	if err := ssh.Unmarshal(nc.ExtraData(), &target); err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "the direct-tcpip request is not valid")
		return
	}
	log := s.cfg.Log.With("user", who.Name, "login_id", who.LoginID,
		"from", who.from, "protocol", "ssh", "node", displayName(target.Host))
	node, err := s.openNode(ctx, who, target.Host)
	if err != nil {
		public := fault.Public(err)
		log.Info("connection to node refused", "kind", public.Kind, "id", public.ID, "err", err)
		_ = nc.Reject(rejectReason(public.Kind), rejectMessage(public))
		return
	}
	channel, requests, err := nc.Accept()
	if err != nil {
		node.Close()
		return
	}
	log.Info("connected to node")
	var discard sync.WaitGroup
	discard.Go(func() { ssh.DiscardRequests(requests) })
	relay(ctx, channel, node)
	discard.Wait()
}

func rejectReason(k fault.Kind) ssh.RejectionReason {
	if k == fault.Denied {
		return ssh.Prohibited
	}
	return ssh.ConnectionFailed
}

// rejectMessage is what ssh prints after "channel 0: open failed". fault.SplitLine takes it apart again.
func rejectMessage(e *fault.Error) string {
	if e.Remedy == "" {
		return e.Msg
	}
	return e.Msg + " (" + e.Remedy + ")"
}
