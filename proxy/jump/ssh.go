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

// ServeSSH serves one SSH connection until it ends or ctx does, and closes conn. It accepts direct-tcpip
// channels, as ssh -J opens them, and connects each to a node. It refuses every other channel and request.
//
// It calls peerKnown as soon as the user is verified. It returns an error only if the handshake failed, and
// nil however a connection ends after that. For a client that tried to authenticate, the error is of kind
// fault.Denied for an invalid certificate, fault.Expired for one whose only defect is that it has expired,
// and fault.Unauthenticated when the client offered no certificate.
func (s *Server) ServeSSH(ctx context.Context, conn net.Conn, peerKnown func(identity.Identity)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	log := s.cfg.Log.With("from", conn.RemoteAddr(), "protocol", "ssh")
	_ = conn.SetDeadline(time.Now().Add(sshHandshakeTimeout))
	sshConn, channels, requests, err := s.handshake(conn)
	if err != nil {
		log.Debug("ssh handshake failed", "err", err)
		return err
	}
	defer sshConn.Close()
	_ = conn.SetDeadline(time.Time{})
	proved, ok := sshConn.Permissions.ExtraData[userKey{}].(sshUser)
	if !ok {
		log.Error("the ssh handshake succeeded without an identity")
		return nil
	}
	user := proved.user
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
	who := s.sshCaller(user, proved.key, conn.RemoteAddr())
	s.serveChannels(ctx, who, sshConn, channels)
	discard.Wait()
	return nil
}

// userKey is the key of the sshUser in the Permissions of the accepted public key. The identity is taken from
// nowhere else: a client may offer several keys before it proves one.
type userKey struct{}

// sshUser is a verified user and the certificate.
type sshUser struct {
	user identity.SSHUser
	key  ssh.PublicKey
}

// authentication is the state of one connection's authentication. All its methods are called by the
// goroutine that does the handshake.
type authentication struct {
	*Server
	tried   bool         // the client has sent an authentication request
	refusal *fault.Error // what the client is told if no key is accepted
}

// handshake does the SSH handshake and authenticates the user, whose identity is in the Permissions of the
// connection under userKey. If the client tried to authenticate, the error is the fault that the client was
// told in a banner.
func (s *Server) handshake(
	conn net.Conn,
) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	hostKey, err := s.cfg.HostSigner()
	if err != nil {
		return nil, nil, nil, err
	}
	auth := &authentication{Server: s, refusal: jumpCertificateNotOffered.New("proxy.ServeSSH")}
	cfg := sshprofile.NewServerConfig(hostKey)
	cfg.AuthLogCallback = func(ssh.ConnMetadata, string, error) { auth.tried = true }
	cfg.PublicKeyCallback = auth.publicKey
	// OpenSSH, PuTTY and others try this method when no key was accepted. It asks nothing and always fails,
	// and its banner tells the user what to do.
	cfg.KeyboardInteractiveCallback = func(
		ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge,
	) (*ssh.Permissions, error) {
		return nil, sshprofile.Banner(auth.refusal)
	}
	sshConn, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil && auth.tried {
		err = auth.refusal.Because(err)
	}
	return sshConn, channels, requests, err
}

// publicKey verifies a key that the client offers, and accepts only a valid certificate of a user. For that
// it returns Permissions that contain the identity. For any other key it returns an error, which x/crypto/ssh
// does not send, and sets refusal, which the client is told after its last key.
//
// The client may offer a key without a proof that it has the private key. That is safe: x/crypto/ssh returns
// the Permissions of the key with which the client has proved itself, and drops all others.
func (a *authentication) publicKey(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	now, authorities := a.cfg.Now(), a.cfg.Rules.Current().Authorities.UserSSH
	verifyAt := func(t time.Time) (identity.SSHUser, error) {
		return identity.VerifySSHUser(key, a.cfg.Cluster, authorities, meta.RemoteAddr(), t)
	}
	user, err := verifyAt(now)
	if err == nil {
		return &ssh.Permissions{ExtraData: map[any]any{userKey{}: sshUser{user, key}}}, nil
	}
	a.cfg.Log.Debug("ssh key refused", "from", meta.RemoteAddr(), "err", err)
	// Clients offer several keys. An expired certificate of this cluster explains the refusal best, and after
	// that any other certificate.
	_, isCert := key.(*ssh.Certificate)
	check := func(t time.Time) error { _, err := verifyAt(t); return err }
	switch {
	case identity.OnlyExpired(err, now, check):
		a.refusal = jumpCertificateExpired.New("proxy.ServeSSH")
	case isCert && a.refusal.Kind != fault.Expired:
		a.refusal = jumpCertificateRefused.New("proxy.ServeSSH")
	}
	return nil, err
}

// serveChannels serves the channels of a connection, each in a goroutine, until the connection ends. Then it
// ends the channels and waits for them.
//
// A channel counts as one more connection of the user, because a tool may use one SSH connection for all
// its nodes. When no channel has been open for idleTimeout, the connection is closed.
func (s *Server) serveChannels(
	ctx context.Context, who *caller, sshConn *ssh.ServerConn, channels <-chan ssh.NewChannel,
) {
	ctx, cancel := context.WithCancel(ctx)
	var open atomic.Int32 // channels being served
	idle := time.AfterFunc(idleTimeout, func() {
		// A channel may have opened while the one before it was starting the timer again.
		if open.Load() == 0 {
			sshConn.Close()
		}
	})
	var serving sync.WaitGroup
	// These run in reverse order. idle.Stop is last, because the last channel to end starts the timer again.
	defer idle.Stop()
	defer serving.Wait()
	defer cancel()
	for newChannel := range channels {
		release, err := s.acquire(who.Identity)
		if err != nil {
			_ = newChannel.Reject(ssh.ResourceShortage, rejectMessage(fault.Public(err)))
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
			defer s.recover(sshConn)
			s.serveChannel(ctx, who, newChannel)
		})
	}
}

// recover logs a panic and closes the connection that caused it, so that the others go on. Callers defer it.
func (s *Server) recover(sshConn *ssh.ServerConn) {
	if r := recover(); r != nil {
		s.cfg.Log.Error("panic while serving a channel",
			"from", sshConn.RemoteAddr(), "panic", r, "stack", string(debug.Stack()))
		sshConn.Close()
	}
}

// directTCPIP is the payload of a direct-tcpip channel (RFC 4254 section 7.2). Host names the node. The port
// is ignored, because a node has only one service.
type directTCPIP struct {
	Host     string
	Port     uint32
	FromHost string
	FromPort uint32
}

// serveChannel opens a stream to the node that the channel asks for, accepts the channel, and relays until
// either of them or ctx ends. If there is no stream it rejects the channel, and the client shows the reason.
func (s *Server) serveChannel(ctx context.Context, who *caller, newChannel ssh.NewChannel) {
	if newChannel.ChannelType() != "direct-tcpip" {
		_ = newChannel.Reject(ssh.Prohibited, "this proxy only connects to nodes; use: ssh -J PROXY NODE")
		return
	}
	var target directTCPIP
	if err := ssh.Unmarshal(newChannel.ExtraData(), &target); err != nil {
		_ = newChannel.Reject(ssh.ConnectionFailed, "the direct-tcpip request is not valid")
		return
	}
	id := identity.NewConnectionID() // each channel is a connection to a node
	log := s.cfg.Log.With("user", who.Name, "login_id", who.LoginID, "from", who.from,
		"protocol", "ssh", "connection", id, "node", displayName(target.Host))
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	node, err := s.openNode(ctx, cut, who, id, target.Host)
	if err != nil {
		public := fault.Public(err)
		log.Info("connection to node refused", "kind", public.Kind, "id", public.ID, "err", err)
		_ = newChannel.Reject(rejectReason(public.Kind), rejectMessage(public))
		return
	}
	defer node.entry.Remove()
	channel, requests, err := newChannel.Accept()
	if err != nil {
		node.conn.Close()
		return
	}
	log.Info("connected to node")
	var discard sync.WaitGroup
	discard.Go(func() { ssh.DiscardRequests(requests) }) // refuses every request of the channel
	if err := relay(ctx, channel, node.conn); err != nil {
		log.Warn("the node refused the connection", "err", err)
	}
	discard.Wait()
}

// rejectReason returns the reason code of RFC 4254 section 5.1 for a kind of fault.
func rejectReason(k fault.Kind) ssh.RejectionReason {
	if k == fault.Denied {
		return ssh.Prohibited
	}
	return ssh.ConnectionFailed
}

// rejectMessage returns the message of a fault and its remedy as one line, which ssh prints after "channel 0:
// open failed". Only clients that are not tsh use this front.
func rejectMessage(e *fault.Error) string {
	if e.Remedy == "" {
		return e.Msg
	}
	return e.Msg + " (" + e.Remedy + ")"
}
