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
)

const (
	// sshHandshakeTimeout bounds everything before the user is known.
	sshHandshakeTimeout = 10 * time.Second
	maxAuthTries        = 6
	// idleTimeout is how long a connection may stay without any channel.
	idleTimeout = time.Minute
	// serverVersion is what the front calls itself; it does not say of which release it is.
	serverVersion = "SSH-2.0-Threshold"
)

// algorithms: AES-GCM first, which has hardware on amd64 and arm64; CTR for libraries that have nothing
// newer. Key exchanges begin with ML-KEM, and none is by SHA-1, as in the library's defaults.
func algorithms() ssh.Config {
	return ssh.Config{
		KeyExchanges: ssh.SupportedAlgorithms().KeyExchanges,
		Ciphers: []string{
			ssh.CipherAES128GCM,
			ssh.CipherAES256GCM,
			ssh.CipherChaCha20Poly1305,
			ssh.CipherAES128CTR,
			ssh.CipherAES256CTR,
		},
		MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
	}
}

// ServeSSH serves one SSH connection until it ends or ctx does. It offers a way to nodes, as ssh -J asks for
// it, and nothing else. settled is called once the user is known. The error says why that never was: for one
// who asked to be let in it is fault.Denied where a certificate was shown that is not good, fault.Expired
// where it merely has ended, and fault.Unauthenticated where there was none.
func (f *Server) ServeSSH(ctx context.Context, conn net.Conn, settled func(identity.Identity)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	log := f.cfg.Log.With("from", conn.RemoteAddr(), "by", "ssh")
	_ = conn.SetDeadline(time.Now().Add(sshHandshakeTimeout))
	sc, channels, requests, err := f.handshake(conn)
	if err != nil {
		log.Debug("ssh handshake failed", "err", err)
		return err
	}
	defer sc.Close()
	_ = conn.SetDeadline(time.Time{})
	user, ok := sc.Permissions.ExtraData[userKey{}].(identity.SSHUser)
	if !ok {
		log.Error("ssh handshake yielded no identity")
		return nil
	}
	settled(user.Identity)
	log = log.With("user", user.Name, "login_id", user.LoginID)
	leave, err := f.users.acquire(user.Identity)
	if err != nil {
		log.Info("refused", "err", err)
		return nil
	}
	defer leave()
	log.Info("ssh user connected")
	var parts sync.WaitGroup
	parts.Go(func() { ssh.DiscardRequests(requests) }) // every global request is answered no
	f.serveChannels(ctx, caller{user.Identity, conn.RemoteAddr(), "ssh"}, sc, channels)
	parts.Wait()
	return nil
}

// userKey finds the verified user in the Permissions of the key that was accepted, the only place identity is
// taken from.
type userKey struct{}

func (f *Server) handshake(
	conn net.Conn,
) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	host, err := f.cfg.HostSigner()
	if err != nil {
		return nil, nil, nil, err
	}
	why := fault.New(
		fault.Unauthenticated,
		"proxy.ssh",
		"this proxy takes a certificate and nothing else; your client showed none",
		"run: tsh login, then name the certificate to your client",
	)
	asked := false
	cfg := &ssh.ServerConfig{
		Config:       algorithms(),
		MaxAuthTries: maxAuthTries,
		// A key that is only asked about passes here too; it is the accepted one's Permissions that count.
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			now, authorities := f.cfg.Now(), f.cfg.Rules.Current().Authorities.UserSSH
			verify := func(at time.Time) (identity.SSHUser, error) {
				return identity.VerifySSHUser(key, f.cfg.Cluster, authorities, meta.RemoteAddr(), at)
			}
			user, err := verify(now)
			if err != nil {
				f.cfg.Log.Debug("ssh key refused", "from", meta.RemoteAddr(), "err", err)
				_, isCert := key.(*ssh.Certificate)
				switch {
				case identity.OnlyExpired(err, now, func(at time.Time) error { _, err := verify(at); return err }):
					why = fault.New(
						fault.Expired,
						"proxy.ssh",
						"your certificate has ended",
						"run: tsh login",
					)
				case isCert && why.Kind != fault.Expired:
					why = fault.New(
						fault.Denied,
						"proxy.ssh",
						"this proxy does not take your certificate",
						"run: tsh login",
					)
				}
				return nil, err
			}
			return &ssh.Permissions{ExtraData: map[any]any{userKey{}: user}}, nil
		},
		// OpenSSH, PuTTY and others come to this once their keys are used up. It asks nothing and lets nobody
		// in; it tells what helps.
		KeyboardInteractiveCallback: func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			return nil, &ssh.BannerError{
				Err:     why,
				Message: "threshold: error: " + why.Msg + "\r\nthreshold: hint: " + why.Remedy + "\r\n",
			}
		},
		AuthLogCallback: func(ssh.ConnMetadata, string, error) { asked = true },
		ServerVersion:   serverVersion,
	}
	for _, key := range identity.HostKeys(host) {
		cfg.AddHostKey(key)
	}
	sc, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil && asked {
		err = fault.Wrap(err, why.Kind, "proxy.ssh", why.Msg, why.Remedy)
	}
	return sc, channels, requests, err
}

// serveChannels serves channel by channel until the connection ends. Each counts as one more connection of
// the person: a tool may share one jump among all its nodes, and holds no more of the proxy than with a jump
// for each.
func (f *Server) serveChannels(
	ctx context.Context,
	who caller,
	sc *ssh.ServerConn,
	channels <-chan ssh.NewChannel,
) {
	ctx, cancel := context.WithCancel(ctx)
	var serving atomic.Int32
	idle := time.AfterFunc(idleTimeout, func() {
		if serving.Load() == 0 { // a channel may open while the one before it starts this again
			sc.Close()
		}
	})
	var open sync.WaitGroup
	defer idle.Stop() // after the last channel, which starts it again
	defer open.Wait()
	defer cancel()
	for nc := range channels {
		leave, err := f.users.acquire(who.Identity)
		if err != nil {
			_ = nc.Reject(ssh.ResourceShortage, rejectMessage(fault.Public(err)))
			continue
		}
		serving.Add(1)
		idle.Stop()
		open.Go(func() {
			defer func() {
				if leave(); serving.Add(-1) == 0 {
					idle.Reset(idleTimeout)
				}
			}()
			defer f.recover(sc)
			f.serveChannel(ctx, who, nc)
		})
	}
}

// recover keeps a panic over one channel from being everyone's.
func (f *Server) recover(sc *ssh.ServerConn) {
	if r := recover(); r != nil {
		f.cfg.Log.Error(
			"panic while serving a channel",
			"from",
			sc.RemoteAddr(),
			"panic",
			r,
			"stack",
			string(debug.Stack()),
		)
		sc.Close()
	}
}

// directTCPIP is what such a channel opens with (RFC 4254 section 7.2). The port means nothing here: a node
// has one service.
type directTCPIP struct {
	Host     string
	Port     uint32
	FromHost string
	FromPort uint32
}

func (f *Server) serveChannel(ctx context.Context, who caller, nc ssh.NewChannel) {
	if nc.ChannelType() != "direct-tcpip" {
		_ = nc.Reject(ssh.Prohibited, "this proxy only leads to nodes; use: ssh -J PROXY NODE")
		return
	}
	var target directTCPIP
	if err := ssh.Unmarshal(nc.ExtraData(), &target); err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "the request could not be read")
		return
	}
	log := f.cfg.Log.With(
		"user",
		who.Name,
		"login_id",
		who.LoginID,
		"from",
		who.from,
		"by",
		"ssh",
		"node",
		displayName(target.Host),
	)
	node, _, err := f.openNode(ctx, who, target.Host)
	if err != nil {
		public := fault.Public(err)
		log.Info("refused", "kind", public.Kind, "id", public.ID, "err", err)
		_ = nc.Reject(rejectReason(public.Kind), rejectMessage(public))
		return
	}
	channel, requests, err := nc.Accept()
	if err != nil {
		node.Close()
		return
	}
	log.Info("connected")
	var quiet sync.WaitGroup
	quiet.Go(func() { ssh.DiscardRequests(requests) })
	relay(ctx, channel, node)
	quiet.Wait()
}

func rejectReason(k fault.Kind) ssh.RejectionReason {
	if k == fault.Denied {
		return ssh.Prohibited
	}
	return ssh.ConnectionFailed
}

// rejectMessage is what ssh prints after "channel 0: open failed".
func rejectMessage(e *fault.Error) string {
	s := e.Msg
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}
