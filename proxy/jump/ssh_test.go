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

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
)

// sshJump is a stock client on the SSH front.
type sshJump struct {
	*ssh.Client
	settled chan struct{}
	wait    func()
}

func (f *testServer) jump(user string, keys ...ssh.Signer) (*sshJump, error) {
	return f.jumpAs(&ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyCallback: hostKey(f),
	})
}

func (f *testServer) jumpAs(cfg *ssh.ClientConfig) (*sshJump, error) {
	client, server := pair(f.t)
	j := &sshJump{settled: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		_ = f.ServeSSH(f.t.Context(), server, func(identity.Identity) { j.settled <- struct{}{} })
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

func (f *testServer) mustJump(roles ...string) *sshJump {
	f.t.Helper()
	j, err := f.jump("anybody", f.UserSigner(f.User("alice@example.com", roles...), nil, "ubuntu"))
	if err != nil {
		f.t.Fatal(err)
	}
	<-j.settled
	return j
}

func TestSSHJumpReachesANode(t *testing.T) {
	f := newTestServer(t)
	j := f.mustJump("ops")
	for _, target := range []string{"web-1:22", "web-1." + membertest.Name + ":2222"} { // the port means nothing
		c, err := j.Dial("tcp", target)
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
	if f.nodes.last.Protocol != "ssh" || f.nodes.last.From != j.LocalAddr().String() {
		t.Errorf("got header %+v, want ssh from %s", f.nodes.last, j.LocalAddr())
	}
	j.Close()
	j.wait()
}

func TestSSHJumpExplainsRefusals(t *testing.T) {
	f := newTestServer(t)
	for _, tt := range []struct {
		node   string
		roles  []string
		reason ssh.RejectionReason
		says   string
	}{
		{"web-9", []string{"ops"}, ssh.ConnectionFailed, "no node web-9 that you may reach (see: tsh ls)"},
		{secretNode, []string{"ops"}, ssh.ConnectionFailed, "no node vault-1 that you may reach (see: tsh ls)"},
		{"web-2", []string{"ops"}, ssh.ConnectionFailed, "node web-2 is offline (last seen 2026-01-02T03:04:05Z)"},
		{"web-1", []string{"viewers"}, ssh.Prohibited, "allows reaching web-1"},
		{"169.254.169.254", []string{"ops"}, ssh.ConnectionFailed, "no node"},
		{"127.0.0.1", []string{"ops"}, ssh.ConnectionFailed, "no node"},
	} {
		j := f.mustJump(tt.roles...)
		_, err := j.Dial("tcp", tt.node+":22")
		refused, ok := err.(*ssh.OpenChannelError)
		if !ok || refused.Reason != tt.reason || !strings.Contains(refused.Message, tt.says) {
			t.Errorf(
				"%s as %v: got %v, want reason %v that says %q",
				tt.node,
				tt.roles,
				err,
				tt.reason,
				tt.says,
			)
		}
		j.Close()
		j.wait()
	}
}

func TestSSHServerOffersNothingElse(t *testing.T) {
	f := newTestServer(t)
	j := f.mustJump("ops")
	for _, kind := range []string{"session", "x11", "forwarded-tcpip", "auth-agent@openssh.com", "direct-streamlocal@openssh.com", "tun@openssh.com", ""} {
		_, _, err := j.OpenChannel(kind, nil)
		refused, ok := err.(*ssh.OpenChannelError)
		if !ok || refused.Reason != ssh.Prohibited || !strings.Contains(refused.Message, "ssh -J") {
			t.Errorf("channel %q: got %v, want prohibited with a hint", kind, err)
		}
	}
	if _, _, err := j.OpenChannel("direct-tcpip", []byte("garbage")); err == nil {
		t.Error("got a direct-tcpip of garbage opened, want refused")
	}
	for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "keepalive@openssh.com", "hostkeys-prove-00@openssh.com"} {
		if ok, _, err := j.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("global request %s: got %v, %v, want no", kind, ok, err)
		}
	}
	// On a channel to a node, too, there is nothing to ask for.
	ch, reqs, err := j.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host     string
		Port     uint32
		FromHost string
		FromPort uint32
	}{"web-1", 22, "127.0.0.1", 1}))
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for _, kind := range []string{"shell", "exec", "subsystem", "env", "pty-req", "auth-agent-req@openssh.com", "x11-req"} {
		if ok, err := ch.SendRequest(kind, true, ssh.Marshal(struct{ S string }{"sftp"})); ok || err != nil {
			t.Errorf("channel request %s: got %v, %v, want no", kind, ok, err)
		}
	}
	ch.Close()
	j.Close()
	j.wait()
}

func TestSSHServerRefusesKeys(t *testing.T) {
	f, foreign := newTestServer(t), newTestServer(t)
	alice := f.User("alice@example.com", "ops")
	plain := foreign.UserSigner(alice, nil, "ubuntu")
	for name, key := range map[string]ssh.Signer{
		"a certificate without principals":  f.UserSigner(alice, nil),
		"a certificate of another cluster":  plain,
		"a plain key":                       plainKey{f.UserSigner(alice, nil, "ubuntu")},
		"a host certificate":                f.HostSigner("web-1"),
		"an expired certificate":            f.UserSigner(alice, func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1000, 2000 }, "ubuntu"),
		"a certificate pinned elsewhere":    f.UserSigner(alice, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24"} }, "ubuntu"),
		"a certificate with odd options":    f.UserSigner(alice, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "true"} }, "ubuntu"),
		"a certificate without an identity": f.UserSigner(alice, func(c *ssh.Certificate) { c.Extensions = nil }, "ubuntu"),
	} {
		if j, err := f.jump("ubuntu", key); err == nil {
			t.Errorf("%s: got in, want refused", name)
			j.Close()
			j.wait()
		}
	}
	// One that is asked about and one that signs: identity is that of the second.
	j, err := f.jump("root", plain, f.UserSigner(f.User("carol@example.com", "ops"), nil, "ubuntu"))
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	j.wait()
}

// plainKey offers a certificate's key without the certificate.
type plainKey struct{ ssh.Signer }

func (p plainKey) PublicKey() ssh.PublicKey { return p.Signer.PublicKey().(*ssh.Certificate).Key }

func TestSSHServerSendsTheRemedyInABanner(t *testing.T) {
	f := newTestServer(t)
	alice := f.User("alice@example.com", "ops")
	ended := f.UserSigner(
		alice,
		func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1000, 2000 },
		"ubuntu",
	)
	foreign := newTestServer(
		t,
	).UserSigner(alice, func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1000, 2000 }, "ubuntu")
	interactive := ssh.KeyboardInteractive(
		func(string, string, []string, []bool) ([]string, error) { return nil, nil },
	)
	for _, tt := range []struct {
		name string
		auth []ssh.AuthMethod
		says string
	}{
		{"no key", []ssh.AuthMethod{interactive}, "showed none"},
		{"a key alone", []ssh.AuthMethod{ssh.PublicKeys(plainKey{ended}), interactive}, "showed none"},
		{"a certificate that ended", []ssh.AuthMethod{ssh.PublicKeys(ended), interactive}, "your certificate has ended"},
		{"a certificate that ended, of another cluster", []ssh.AuthMethod{ssh.PublicKeys(foreign), interactive}, "does not take your certificate"},
	} {
		said := ""
		_, err := f.jumpAs(&ssh.ClientConfig{
			User:            "ubuntu",
			Auth:            tt.auth,
			HostKeyCallback: hostKey(f),
			BannerCallback:  func(s string) error { said += s; return nil },
		})
		if err == nil || !strings.Contains(said, tt.says) || !strings.Contains(said, "tsh login") {
			t.Errorf("%s: got %v and banner %q, want a refusal that says %q", tt.name, err, said, tt.says)
		}
	}
}

func TestSSHServerRefusesOldAlgorithms(t *testing.T) {
	f := newTestServer(t)
	auth := []ssh.AuthMethod{ssh.PublicKeys(f.UserSigner(f.User("alice@example.com", "ops"), nil, "ubuntu"))}
	j, err := f.jumpAs(&ssh.ClientConfig{
		Config:          ssh.Config{Ciphers: []string{ssh.CipherAES128CTR}},
		Auth:            auth,
		HostKeyCallback: hostKey(f),
	})
	if err != nil {
		t.Fatalf("CTR: %v", err)
	}
	j.Close()
	j.wait()
	for _, c := range []ssh.Config{{KeyExchanges: []string{ssh.InsecureKeyExchangeDH14SHA1}}, {Ciphers: []string{ssh.CipherAES128CTR}, MACs: []string{ssh.HMACSHA1}}} {
		if j, err := f.jumpAs(&ssh.ClientConfig{Config: c, Auth: auth, HostKeyCallback: hostKey(f)}); err == nil {
			j.Close()
			j.wait()
			t.Errorf("%+v: got in, want no common algorithm", c)
		}
	}
}

func TestSSHServerShowsItsPlainHostKeyOnRequest(t *testing.T) {
	f := newTestServer(t)
	var shown ssh.PublicKey
	j, err := f.jumpAs(&ssh.ClientConfig{
		User: "x",
		Auth: []ssh.AuthMethod{
			ssh.PublicKeys(f.UserSigner(f.User("alice@example.com", "ops"), nil, "ubuntu")),
		},
		HostKeyAlgorithms: []string{
			ssh.KeyAlgoED25519,
		},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { shown = key; return nil },
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
	f, foreign := newTestServer(t), newTestServer(t)
	var keys []ssh.Signer
	for range 7 {
		keys = append(keys, foreign.UserSigner(f.User("eve@example.com"), nil, "ubuntu"))
	}
	keys = append(keys, f.UserSigner(f.User("alice@example.com"), nil, "ubuntu")) // good, and too late
	if j, err := f.jump("x", keys...); err == nil {
		t.Error("got in at the eighth key, want the connection ended before")
		j.Close()
		j.wait()
	}
}

// One jump that a tool shares among hundreds of nodes is fine; beyond what a person may have it is not.
func TestSSHServerCountsChannelsPerUser(t *testing.T) {
	f := newTestServer(t)
	j := f.mustJump("ops")
	for n := 1; n < 1000; n++ { // the connection counts too
		if _, err := j.Dial("tcp", "web-1:22"); err != nil {
			t.Fatalf("channel %d: %v", n, err)
		}
	}
	var refused *ssh.OpenChannelError
	if _, err := j.Dial("tcp", "web-1:22"); !errors.As(err, &refused) ||
		refused.Reason != ssh.ResourceShortage ||
		!strings.Contains(refused.Message, "1000 connections") {
		t.Errorf("got %v for one more, want it refused with the reason", err)
	}
	j.Close()
	j.wait()
	again := f.mustJump("ops")
	if _, err := again.Dial("tcp", "web-1:22"); err != nil {
		t.Errorf("got %v once the others had ended, want a channel", err)
	}
	again.Close()
	again.wait()
}

// What a client showed decides what its network pays.
func TestServeSSHReportsWhatTheClientShowed(t *testing.T) {
	f := newTestServer(t)
	alice := f.User("alice@example.com", "ops")
	ended := f.UserSigner(
		alice,
		func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1000, 2000 },
		"ubuntu",
	)
	foreign := newTestServer(t).UserSigner(alice, nil, "ubuntu")
	for name, tt := range map[string]struct {
		keys []ssh.Signer
		want fault.Kind
	}{
		"nothing":                               {nil, fault.Unauthenticated},
		"a key alone":                           {[]ssh.Signer{plainKey{ended}}, fault.Unauthenticated},
		"a certificate that ended":              {[]ssh.Signer{ended}, fault.Expired},
		"a foreign one":                         {[]ssh.Signer{foreign}, fault.Denied},
		"one that ended, among all that it has": {[]ssh.Signer{plainKey{ended}, foreign, ended, foreign}, fault.Expired},
	} {
		client, server := pair(t)
		said := make(chan error, 1)
		go func() {
			said <- f.ServeSSH(t.Context(), server, func(identity.Identity) { t.Errorf("%s: got settled", name) })
		}()
		_, _, _, err := ssh.NewClientConn(
			client,
			"",
			&ssh.ClientConfig{
				User:            "x",
				Auth:            []ssh.AuthMethod{ssh.PublicKeys(tt.keys...)},
				HostKeyCallback: hostKey(f),
			},
		)
		client.Close()
		if got := <-said; err == nil || !fault.Is(got, tt.want) {
			t.Errorf("%s: got %v, want %s", name, got, tt.want)
		}
	}
}

func TestSSHServerEndsStalledHandshakes(t *testing.T) {
	f := newTestServer(t)
	for name, first := range map[string]string{"silence": "", "half a banner": "SSH-2.0", "a banner and no more": "SSH-2.0-x\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			start := time.Now()
			go func() {
				if first != "" {
					io.WriteString(client, first)
				}
			}()
			go io.Copy(io.Discard, client)
			err := f.ServeSSH(
				t.Context(),
				addrConn{server},
				func(identity.Identity) { t.Error("got settled without a key") },
			)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("%s: got held for %s, want 10s", name, took)
			}
			var slow net.Error
			if !errors.As(err, &slow) || !slow.Timeout() {
				t.Errorf("%s: got %v, want a timeout", name, err)
			}
			client.Close()
		})
	}
}
