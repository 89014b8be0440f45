package jump_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/testnet"
)

// sshJump is the connection of a stock SSH client.
type sshJump struct {
	*ssh.Client
	known chan struct{} // gets a value when the server knows the user
	wait  func()        // returns when ServeSSH has
}

// jump connects with keys.
func (s *testServer) jump(user string, keys ...ssh.Signer) (*sshJump, error) {
	return s.jumpAs(&ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyCallback: hostKey(s),
	})
}

// jumpAs connects with a client configuration.
func (s *testServer) jumpAs(cfg *ssh.ClientConfig) (*sshJump, error) {
	client, server := testnet.Pipe()
	j := &sshJump{known: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		_ = s.ServeSSH(s.t.Context(), server, func(identity.Identity) { j.known <- struct{}{} })
		close(done)
	}()
	j.wait = func() { <-done }
	sc, chans, reqs, err := ssh.NewClientConn(client, "", cfg)
	if err != nil {
		client.Close()
		<-done
		return nil, err
	}
	j.Client = ssh.NewClient(sc, chans, reqs)
	return j, nil
}

// mustJump connects as alice with the roles.
func (s *testServer) mustJump(roles ...string) *sshJump {
	s.t.Helper()
	j, err := s.jump("anybody", s.UserSigner(s.User("alice@example.com", roles...), nil, "ubuntu"))
	if err != nil {
		s.t.Fatal(err)
	}
	<-j.known
	return j
}

// ssh -J reaches a node, whatever port it names. A half-close passes through, and the node gets the client's
// address.
func TestSSHJumpReachesANode(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	jumped := srv.mustJump("ops")
	// The port is ignored.
	for _, target := range []string{"web-1:22", "web-1." + clustertest.Name + ":2222"} {
		c, err := jumped.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("hello"))
		c.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v, want hello back after the half-close", got, err)
		}
		c.Close()
	}
	header := srv.nodes.last
	if header.Protocol != "ssh" || header.From.String() != jumped.LocalAddr().String() ||
		header.Connection.Check() != nil || len(header.Features) != 0 {
		t.Errorf("got header %+v, want ssh from %s", srv.nodes.last, jumped.LocalAddr())
	}
	jumped.Close()
	jumped.wait()
}

// The message of a refused channel says why, with the remedy. An address is no node, so a jump cannot reach
// the proxy's own network.
func TestSSHJumpExplainsRefusals(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	for _, tt := range []struct {
		node   string
		role   string
		reason ssh.RejectionReason
		says   string
	}{
		{"web-9", "ops", ssh.ConnectionFailed, "no node web-9 that you may reach (see: tsh ls)"},
		{secretNode, "ops", ssh.ConnectionFailed, "no node vault-1 that you may reach (see: tsh ls)"},
		{"web-2", "ops", ssh.ConnectionFailed, "node web-2 is offline (last seen 2026-01-02T03:04:05Z)"},
		{"web-1", "viewers", ssh.Prohibited, "allows reaching web-1"},
		{"169.254.169.254", "ops", ssh.ConnectionFailed, "no node"},
		{"127.0.0.1", "ops", ssh.ConnectionFailed, "no node"},
	} {
		jumped := srv.mustJump(tt.role)
		_, err := jumped.Dial("tcp", tt.node+":22")
		refused, ok := err.(*ssh.OpenChannelError)
		if !ok || refused.Reason != tt.reason || !strings.Contains(refused.Message, tt.says) {
			t.Errorf("%s as %s: got %v, want %v with %q", tt.node, tt.role, err, tt.reason, tt.says)
		}
		jumped.Close()
		jumped.wait()
	}
}

// The SSH server refuses every channel but direct-tcpip, every global request, and every request in a channel
// to a node.
func TestSSHServerOffersNothingElse(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	jumped := srv.mustJump("ops")
	for _, kind := range []string{
		"session", "x11", "forwarded-tcpip", "auth-agent@openssh.com", "direct-streamlocal@openssh.com",
		"tun@openssh.com", "",
	} {
		_, _, err := jumped.OpenChannel(kind, nil)
		refused, ok := err.(*ssh.OpenChannelError)
		if !ok || refused.Reason != ssh.Prohibited || !strings.Contains(refused.Message, "ssh -J") {
			t.Errorf("channel %q: got %v, want prohibited with a hint", kind, err)
		}
	}
	if _, _, err := jumped.OpenChannel("direct-tcpip", []byte("garbage")); err == nil {
		t.Error("got a direct-tcpip of garbage opened, want refused")
	}
	for _, kind := range []string{
		"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "keepalive@openssh.com",
		"hostkeys-prove-00@openssh.com",
	} {
		if ok, _, err := jumped.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("global request %s: got %v, %v, want no", kind, ok, err)
		}
	}
	// A channel to a node takes no requests either.
	ch, reqs, err := jumped.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host     string
		Port     uint32
		FromHost string
		FromPort uint32
	}{"web-1", 22, "127.0.0.1", 1}))
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for _, kind := range []string{
		"shell", "exec", "subsystem", "env", "pty-req", "auth-agent-req@openssh.com", "x11-req",
	} {
		if ok, err := ch.SendRequest(kind, true, ssh.Marshal(struct{ S string }{"sftp"})); ok || err != nil {
			t.Errorf("channel request %s: got %v, %v, want no", kind, ok, err)
		}
	}
	ch.Close()
	jumped.Close()
	jumped.wait()
}

// Only a valid user certificate of this cluster is accepted. If a client offers several keys, the one that it
// proves counts.
func TestSSHServerRefusesKeys(t *testing.T) {
	t.Parallel()
	srv, foreign := newTestServer(t), newTestServer(t)
	alice := srv.User("alice@example.com", "ops")
	ofAnotherCluster := foreign.UserSigner(alice, nil, "ubuntu")
	changed := func(change func(*ssh.Certificate)) ssh.Signer {
		return srv.UserSigner(alice, change, "ubuntu")
	}
	withOption := func(name, value string) ssh.Signer {
		return changed(func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{name: value} })
	}
	for name, key := range map[string]ssh.Signer{
		"a certificate without principals":        srv.UserSigner(alice, nil),
		"a certificate of another cluster":        ofAnotherCluster,
		"a plain key":                             plainKey{srv.UserSigner(alice, nil, "ubuntu")},
		"a host certificate":                      srv.HostSigner("web-1"),
		"an expired certificate":                  changed(expire),
		"a certificate pinned to another network": withOption("source-address", "192.0.2.0/24"),
		"a certificate with an unexpected option": withOption("force-command", "true"),
		"a certificate without an identity":       changed(func(c *ssh.Certificate) { c.Extensions = nil }),
	} {
		if jumped, err := srv.jump("ubuntu", key); err == nil {
			t.Errorf("%s: got accepted, want refused", name)
			jumped.Close()
			jumped.wait()
		}
	}
	// The client offers two keys and proves the second, whose identity counts.
	carol := srv.UserSigner(srv.User("carol@example.com", "ops"), nil, "ubuntu")
	jumped, err := srv.jump("root", ofAnotherCluster, carol)
	if err != nil {
		t.Fatal(err)
	}
	jumped.Close()
	jumped.wait()
}

// expire makes a certificate one that has expired.
func expire(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1000, 2000 }

// plainKey offers the key of a certificate without the certificate.
type plainKey struct{ ssh.Signer }

func (p plainKey) PublicKey() ssh.PublicKey { return p.Signer.PublicKey().(*ssh.Certificate).Key }

// A client without a valid certificate is told in a banner what is wrong and what to run.
func TestSSHServerSendsTheRemedyInABanner(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	alice := srv.User("alice@example.com", "ops")
	expired := srv.UserSigner(alice, expire, "ubuntu")
	foreign := newTestServer(t).UserSigner(alice, expire, "ubuntu")
	noAnswers := func(string, string, []string, []bool) ([]string, error) { return nil, nil }
	interactive := ssh.KeyboardInteractive(noAnswers)
	for _, tt := range []struct {
		name string
		keys []ssh.Signer
		want string
	}{
		{"no key", nil, "offered none"},
		{"a plain key", []ssh.Signer{plainKey{expired}}, "offered none"},
		{"an expired certificate", []ssh.Signer{expired}, "your certificate has expired"},
		{"an expired one of another cluster", []ssh.Signer{foreign}, "does not accept your certificate"},
	} {
		banner := ""
		_, err := srv.jumpAs(&ssh.ClientConfig{
			User:            "ubuntu",
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(tt.keys...), interactive},
			HostKeyCallback: hostKey(srv),
			BannerCallback:  func(text string) error { banner += text; return nil },
		})
		if err == nil || !strings.Contains(banner, tt.want) || !strings.Contains(banner, "tsh login") {
			t.Errorf("%s: got %v and banner %q, want it refused with %q", tt.name, err, banner, tt.want)
		}
	}
}

// Key exchanges and MACs with SHA-1 are refused; CTR ciphers are still accepted.
func TestSSHServerRefusesOldAlgorithms(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	auth := []ssh.AuthMethod{
		ssh.PublicKeys(srv.UserSigner(srv.User("alice@example.com", "ops"), nil, "ubuntu")),
	}
	j, err := srv.jumpAs(&ssh.ClientConfig{
		Config:          ssh.Config{Ciphers: []string{ssh.CipherAES128CTR}},
		Auth:            auth,
		HostKeyCallback: hostKey(srv),
	})
	if err != nil {
		t.Fatalf("CTR: %v", err)
	}
	j.Close()
	j.wait()
	for _, c := range []ssh.Config{
		{KeyExchanges: []string{ssh.InsecureKeyExchangeDH14SHA1}},
		{Ciphers: []string{ssh.CipherAES128CTR}, MACs: []string{ssh.HMACSHA1}},
	} {
		j, err := srv.jumpAs(&ssh.ClientConfig{Config: c, Auth: auth, HostKeyCallback: hostKey(srv)})
		if err == nil {
			j.Close()
			j.wait()
			t.Errorf("%+v: got accepted, want no common algorithm", c)
		}
	}
}

// A client that knows no host certificates gets the plain host key.
func TestSSHServerShowsItsPlainHostKeyOnRequest(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	var shown ssh.PublicKey
	alice := srv.UserSigner(srv.User("alice@example.com", "ops"), nil, "ubuntu")
	j, err := srv.jumpAs(&ssh.ClientConfig{
		User:              "x",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(alice)},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback:   func(_ string, _ net.Addr, key ssh.PublicKey) error { shown = key; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if shown.Type() != ssh.KeyAlgoED25519 {
		t.Errorf("got a host key of type %s, want %s", shown.Type(), ssh.KeyAlgoED25519)
	}
	j.Close()
	j.wait()
}

func TestSSHServerLimitsAuthenticationAttempts(t *testing.T) {
	t.Parallel()
	s, foreign := newTestServer(t), newTestServer(t)
	var keys []ssh.Signer
	for range 7 {
		keys = append(keys, foreign.UserSigner(s.User("eve@example.com"), nil, "ubuntu"))
	}
	keys = append(keys, s.UserSigner(s.User("alice@example.com"), nil, "ubuntu")) // valid, but one too many
	if j, err := s.jump("x", keys...); err == nil {
		t.Error("got accepted at the eighth key, want the connection closed before")
		j.Close()
		j.wait()
	}
}

// A tool may use one SSH connection for hundreds of nodes. Its channels count as connections of the user.
func TestSSHServerCountsChannelsPerUser(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	jumped := srv.mustJump("ops")
	for n := 1; n < 1000; n++ { // the connection counts too
		if _, err := jumped.Dial("tcp", "web-1:22"); err != nil {
			t.Fatalf("channel %d: %v", n, err)
		}
	}
	var refused *ssh.OpenChannelError
	_, err := jumped.Dial("tcp", "web-1:22")
	if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
		t.Fatalf("got %v for one more, want a resource shortage", err)
	}
	if !strings.Contains(refused.Message, "1000 connections") {
		t.Errorf("got %q for one more, want the limit in it", refused.Message)
	}
	jumped.Close()
	jumped.wait()
	again := srv.mustJump("ops")
	if _, err := again.Dial("tcp", "web-1:22"); err != nil {
		t.Errorf("got %v once the others had ended, want a channel", err)
	}
	again.Close()
	again.wait()
}

// The kind of the error decides what mux charges the network.
func TestServeSSHReportsWhatTheClientShowed(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	alice := srv.User("alice@example.com", "ops")
	expired := srv.UserSigner(alice, expire, "ubuntu")
	foreign := newTestServer(t).UserSigner(alice, nil, "ubuntu")
	several := []ssh.Signer{plainKey{expired}, foreign, expired, foreign}
	for name, tt := range map[string]struct {
		keys []ssh.Signer
		want fault.Kind
	}{
		"nothing":                          {nil, fault.Unauthenticated},
		"a plain key":                      {[]ssh.Signer{plainKey{expired}}, fault.Unauthenticated},
		"an expired certificate":           {[]ssh.Signer{expired}, fault.Expired},
		"a certificate of another cluster": {[]ssh.Signer{foreign}, fault.Denied},
		"an expired one among others":      {several, fault.Expired},
	} {
		client, server := testnet.Pipe()
		result := make(chan error, 1)
		go func() {
			peerKnown := func(identity.Identity) { t.Errorf("%s: got a known peer", name) }
			result <- srv.ServeSSH(t.Context(), server, peerKnown)
		}()
		_, _, _, err := ssh.NewClientConn(client, "", &ssh.ClientConfig{
			User:            "x",
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(tt.keys...)},
			HostKeyCallback: hostKey(srv),
		})
		client.Close()
		if got := <-result; err == nil || !fault.Is(got, tt.want) {
			t.Errorf("%s: got %v, want %s", name, got, tt.want)
		}
	}
}

// A client that stalls during the handshake is closed after 10 s, with a timeout as the error and without a
// known peer.
func TestSSHServerEndsStalledHandshakes(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	for name, first := range map[string]string{
		"silence": "", "half a version": "SSH-2.0", "a version and no more": "SSH-2.0-x\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			start := time.Now()
			go func() {
				if first != "" {
					io.WriteString(client, first)
				}
			}()
			go io.Copy(io.Discard, client)
			peerKnown := func(identity.Identity) { t.Error("got a known peer without a key") }
			err := srv.ServeSSH(t.Context(), addrConn{server}, peerKnown)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("%s: got held for %s, want 10s", name, took)
			}
			var netErr net.Error
			if !errors.As(err, &netErr) || !netErr.Timeout() {
				t.Errorf("%s: got %v, want a timeout", name, err)
			}
			client.Close()
		})
	}
}
