package sshd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/sshd"
)

func TestCertificatesRefusedAtLogin(t *testing.T) {
	r := newFixture(t, nil)
	other := membertest.New(t)
	alice := r.cluster.User("alice@example.com", "ops")
	hour := uint64(time.Hour / time.Second)
	for _, tt := range []struct {
		name   string
		signer ssh.Signer
		login  string
		banner string // what the person reads; empty: nothing, as for a stranger's key
	}{
		{"another cluster's", other.UserSigner(alice, nil, testAccount()), testAccount(), "an authority this cluster does not have"},
		{"another cluster's name, our key", r.cluster.UserSigner(func() identity.Identity { a := alice; a.Cluster = "other.example.com"; return a }(), nil, testAccount()), testAccount(), "other.example.com"},
		{"without principals", r.cluster.UserSigner(alice, nil), testAccount(), "no principals"},
		{"with a wildcard principal", r.cluster.UserSigner(alice, nil, "*"), testAccount(), "principal"},
		{"with a comma in a principal", r.cluster.UserSigner(alice, nil, "root,"+testAccount()), testAccount(), "principal"},
		{"expired", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { c.ValidAfter -= 3 * hour; c.ValidBefore -= 2 * hour }, testAccount()), testAccount(), "expired at"},
		{"not valid yet", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { c.ValidAfter += 2 * hour; c.ValidBefore += 2 * hour }, testAccount()), testAccount(), "check this machine's clock"},
		{"without an end", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }, testAccount()), testAccount(), "validity"},
		{"without an identity", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { delete(c.Extensions, identity.SSHExtension) }, testAccount()), testAccount(), "identity"},
		{"with an unknown critical option", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "x"} }, testAccount()), testAccount(), "force-command"},
		{"of a host", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, testAccount()), testAccount(), "wrong type"},
		{"pinned to another address", r.cluster.UserSigner(alice, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "203.0.113.0/24"} }, testAccount()), testAccount(), "pinned"},
		{"of another kind of holder", r.cluster.UserSigner(func() identity.Identity { a := alice; a.Kind = identity.Node; return a }(), nil, testAccount()), testAccount(), "threshold: error"},
		{"for a login it does not name", r.cluster.UserSigner(alice, nil, "somebody"), testAccount(), "does not name the login"},
		{"for a login that no rule allows", r.cluster.UserSigner(alice, nil, "daemon"), "daemon", "no role of alice@example.com (roles: ops) allows"},
		{"for a login that is no account name", r.cluster.UserSigner(alice, nil, testAccount()), "a,b", "not a valid account name"},
		{"without roles", r.cluster.UserSigner(r.cluster.User("bob@example.com"), nil, testAccount()), testAccount(), "no role of bob@example.com (none) allows"},
		{"with a role that does not exist", r.cluster.UserSigner(r.cluster.User("bob@example.com", "gone"), nil, testAccount()), testAccount(), "roles: gone"},
		{"a plain key", plainKey(t), testAccount(), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, banner, err := r.dial(tt.login, tt.signer)
			if err == nil {
				t.Fatal("got logged in, want refused")
			}
			if tt.banner == "" && banner != "" || !strings.Contains(banner, tt.banner) {
				t.Errorf("got banner %q, want %q in it", banner, tt.banner)
			}
			if tt.banner != "" && !strings.Contains(banner, "threshold: hint: ") {
				t.Errorf("got banner %q, want a hint in it", banner)
			}
		})
	}
	if got := r.recorded(audit.SessionStarted); len(got) != 0 {
		t.Errorf("got %d sessions recorded, want none", len(got))
	}
	refusals := r.recorded(audit.SessionRefused)
	if len(refusals) != 5 { // those who proved to hold a good certificate
		t.Errorf("got %d refusals recorded, want 5: %+v", len(refusals), refusals)
	}
	r.client() // and the good one still gets in
}

// plainKey is a key without a certificate.
func plainKey(t *testing.T) ssh.Signer {
	t.Helper()
	c := membertest.New(t)
	s := c.UserSigner(c.User("x"), nil, "x")
	return keyOnly{s}
}

// keyOnly shows only the key inside a certificate.
type keyOnly struct{ ssh.Signer }

func (b keyOnly) PublicKey() ssh.PublicKey { return b.Signer.PublicKey().(*ssh.Certificate).Key }

// wrongKeySigner holds somebody's certificate and not the key.
type wrongKeySigner struct{ ssh.Signer }

func (wrongKeySigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)}, nil
}

func TestACertificateWithoutItsKeyLearnsNothing(t *testing.T) {
	r := newFixture(t, nil)
	r.allow() // no roles at all, so its owner would be told so
	_, banner, err := r.dial(testAccount(), wrongKeySigner{r.signer()})
	if err == nil || banner != "" {
		t.Errorf("got %v and banner %q, want a refusal and no word", err, banner)
	}
	if got := r.recorded(audit.SessionRefused); len(got) != 0 {
		t.Errorf("got %d refusals on record, want none: nobody proved who they are", len(got))
	}
}

func TestLoginWithoutAKeyIsRefused(t *testing.T) {
	r := newFixture(t, nil)
	for _, auth := range [][]ssh.AuthMethod{nil, {ssh.Password("x")}, {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })}} {
		c, err := ssh.Dial(
			"tcp",
			r.addr,
			&ssh.ClientConfig{User: testAccount(), Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey()},
		)
		if err == nil {
			c.Close()
			t.Error("got logged in, want refused")
		}
	}
}

func TestAClientWithoutACertificateIsToldOnItsLastTry(t *testing.T) {
	r := newFixture(t, nil)
	many := func(n int) (keys []ssh.Signer) {
		for range n {
			keys = append(keys, plainKey(t))
		}
		return keys
	}
	interactive := ssh.KeyboardInteractive(
		func(_, instruction string, questions []string, _ []bool) ([]string, error) {
			t.Errorf("got asked %q %v, want no question", instruction, questions)
			return nil, nil
		},
	)
	for _, tt := range []struct {
		name string
		auth []ssh.AuthMethod
		told int
	}{
		{"a password", []ssh.AuthMethod{ssh.Password("x")}, 0}, // hears from its client that passwords are not taken
		{"answers to questions", []ssh.AuthMethod{interactive}, 1},
		{"one key, then answers", []ssh.AuthMethod{ssh.PublicKeys(many(1)...), interactive}, 1},
		{"as many keys as may be", []ssh.AuthMethod{ssh.PublicKeys(many(sshprofile.MaxAuthTries)...)}, 1},
		{"a key that nobody asks about further", []ssh.AuthMethod{ssh.PublicKeys(many(1)...)}, 0},
	} {
		_, said, err := r.dialWith(testAccount(), tt.auth...)
		if err == nil || strings.Count(said, "tsh login") != tt.told {
			t.Errorf(
				"%s: got %v and banner %q, want a refusal and to be told %d times",
				tt.name,
				err,
				said,
				tt.told,
			)
		}
	}
	if _, said, err := r.dial(testAccount(), append(many(sshprofile.MaxAuthTries-1), r.signer())...); err != nil ||
		said != "" {
		t.Errorf("got %v and banner %q, want one who has a certificate let in without a word", err, said)
	}
	r.allow()
	if _, said, err := r.dialWith(testAccount(), ssh.PublicKeys(r.signer()), interactive); err == nil ||
		strings.Contains(said, "showed none") {
		t.Errorf("got %v and banner %q, want nothing about a missing certificate", err, said)
	}
}

func TestOldAlgorithmsAreRefused(t *testing.T) {
	r := newFixture(t, nil)
	for _, c := range []ssh.Config{
		{KeyExchanges: []string{ssh.InsecureKeyExchangeDH14SHA1}}, {Ciphers: []string{ssh.InsecureCipherAES128CBC}}, {Ciphers: []string{ssh.CipherAES128CTR}, MACs: []string{ssh.HMACSHA1}},
	} {
		conn, err := ssh.Dial(
			"tcp",
			r.addr,
			&ssh.ClientConfig{
				Config:          c,
				User:            testAccount(),
				Auth:            []ssh.AuthMethod{ssh.PublicKeys(r.signer())},
				HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			},
		)
		if err == nil {
			conn.Close()
			t.Errorf("%+v: got logged in, want no common algorithm", c)
		}
	}
}

func TestClientsWithoutHostCertificateSupportGetThePlainKey(t *testing.T) {
	r := newFixture(t, nil)
	var shown ssh.PublicKey
	c, err := ssh.Dial(
		"tcp",
		r.addr,
		&ssh.ClientConfig{
			User:              testAccount(),
			Auth:              []ssh.AuthMethod{ssh.PublicKeys(r.signer())},
			HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
			HostKeyCallback:   func(_ string, _ net.Addr, key ssh.PublicKey) error { shown = key; return nil },
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	host, err := r.member.HostSigner()
	if err != nil {
		t.Fatal(err)
	}
	if want := host.PublicKey().(*ssh.Certificate).Key; !bytes.Equal(shown.Marshal(), want.Marshal()) {
		t.Errorf("got host key %s, want %s", ssh.FingerprintSHA256(shown), ssh.FingerprintSHA256(want))
	}
}

func TestLoginTriesAreLimited(t *testing.T) {
	r := newFixture(t, nil)
	var keys []ssh.Signer
	for range sshprofile.MaxAuthTries {
		keys = append(keys, plainKey(t))
	}
	if _, _, err := r.dial(testAccount(), append(keys, r.signer())...); err == nil {
		t.Error("got logged in with the seventh key, want the connection closed before")
	}
	if _, _, err := r.dial(testAccount(), append(keys[:3], r.signer())...); err != nil {
		t.Errorf("got %v with the fourth key, want logged in", err)
	}
}

func TestLoginNeedsARightClockAndFreshRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		off    time.Duration
		banner string
	}{
		{"10 minutes behind", -10 * time.Minute, "clock is behind"},
		{"a day and an hour without news", 25 * time.Hour, "has not heard from the cluster"},
	} {
		r := newFixture(t, func(c *sshd.Config) { c.Now = membertest.SkewedClock(tt.off) })
		if _, banner, err := r.dial(testAccount(), r.signer()); err == nil ||
			!strings.Contains(banner, tt.banner) ||
			!strings.Contains(banner, "hint: ") {
			t.Errorf("%s: got %v and banner %q, want a refusal with %q", tt.name, err, banner, tt.banner)
		}
	}
	r := newFixture(
		t,
		func(c *sshd.Config) { c.Now = membertest.SkewedClock(40 * time.Minute) },
	) // rules 40 minutes old, certificate still good
	r.client()
}

// requestCases is every way in that a client can try, with the action it needs.
var requestCases = []struct {
	name  string
	needs access.Action // empty: no grant opens it
	mute  bool          // a refusal has no words: the reply has no room for them
	try   func(*testing.T, *ssh.Client) error
	words string // what the person reads where no grant opens it
}{
	{"shell", access.Shell, false, func(t *testing.T, c *ssh.Client) error {
		return runProgram(t, c, func(s *ssh.Session) error { return s.Shell() })
	}, ""},
	{"shell with a terminal", access.Shell, false, func(t *testing.T, c *ssh.Client) error {
		return runProgram(
			t,
			c,
			func(s *ssh.Session) error { return errors.Join(s.RequestPty("dumb", 24, 80, nil), s.Shell()) },
		)
	}, ""},
	{"exec", access.Exec, false, func(t *testing.T, c *ssh.Client) error {
		return runProgram(t, c, func(s *ssh.Session) error { return s.Start("true") })
	}, ""},
	{"exec of scp", access.Exec, false, func(t *testing.T, c *ssh.Client) error {
		return runProgram(t, c, func(s *ssh.Session) error { return s.Start("command -v true") })
	}, ""},
	{"sftp", access.SFTP, false, func(t *testing.T, c *ssh.Client) error {
		return runProgram(t, c, func(s *ssh.Session) error { return s.RequestSubsystem("sftp") })
	}, ""},
	{"another subsystem", "", true, channelRequest("subsystem", "netconf"), ""},
	{"direct-tcpip", access.ForwardLocal, false, func(t *testing.T, c *ssh.Client) error {
		return openChannel("direct-tcpip", directTCP(startEcho(t, "tcp")))(t, c)
	}, ""},
	{"direct-streamlocal", access.ForwardLocal, false, func(t *testing.T, c *ssh.Client) error {
		return openChannel(
			"direct-streamlocal@openssh.com",
			wire(startEcho(t, "unix").String(), "", uint32(0)),
		)(
			t,
			c,
		)
	}, ""},
	{"x11 channel", "", false, openChannel("x11", nil), "does not support"},
	{"forwarded-tcpip", "", false, openChannel("forwarded-tcpip", nil), "does not support"},
	{"tun", "", false, openChannel("tun@openssh.com", nil), "does not support"},
	{"an agent channel", "", false, openChannel("auth-agent@openssh.com", nil), "does not support"},
	{"tcpip-forward", access.ForwardRemote, true, func(t *testing.T, c *ssh.Client) error {
		_, err := listenTCP(c, "127.0.0.1", 0)
		return err
	}, ""},
	{"cancel-tcpip-forward", access.ForwardRemote, true, func(t *testing.T, c *ssh.Client) error {
		port, _ := listenTCP(c, "localhost", 0)
		return globalRequest("cancel-tcpip-forward", wire("localhost", port))(t, c)
	}, ""},
	{"streamlocal-forward", access.ForwardRemote, true, func(t *testing.T, c *ssh.Client) error {
		return globalRequest("streamlocal-forward@openssh.com", wire(filepath.Join(t.TempDir(), "s")))(t, c)
	}, ""},
	{"cancel-streamlocal-forward", access.ForwardRemote, true, func(t *testing.T, c *ssh.Client) error {
		path := wire(filepath.Join(t.TempDir(), "s"))
		_ = globalRequest("streamlocal-forward@openssh.com", path)(t, c)
		return globalRequest("cancel-streamlocal-forward@openssh.com", path)(t, c)
	}, ""},
	{"hostkeys-prove", "", true, globalRequest("hostkeys-prove-00@openssh.com", nil), ""},
	{"an unknown global request", "", true, globalRequest("open-sesame", wire("127.0.0.1", uint32(0))), ""},
	{
		"agent forwarding",
		access.ForwardAgent,
		false,
		channelRequestWithReason("auth-agent-req@openssh.com"),
		"",
	},
	{
		"x11 forwarding",
		"",
		false,
		channelRequestWithReason("x11-req", "single"),
		"this node does not forward X11",
	},
	{"break", "", true, channelRequest("break"), ""},
	{"xon-xoff", "", true, channelRequest("xon-xoff"), ""},
	{"an unknown session request", "", true, channelRequest("open-sesame"), ""},
	{"LD_PRELOAD", "", true, channelRequest("env", "LD_PRELOAD", "/tmp/x.so"), ""},
}

// runProgram starts one and expects the end that it has when it was allowed: status 0 or a closed connection,
// not the refusal's 126.
func runProgram(t *testing.T, c *ssh.Client, start func(*ssh.Session) error) error {
	s := newSession(t, c)
	in, _ := s.StdinPipe()
	stderr, _ := s.StderrPipe()
	if err := start(s); err != nil {
		said := make([]byte, 4096)
		n, _ := stderr.Read(said) // it came before the refusal
		return fmt.Errorf("%w: %s", err, said[:n])
	}
	_, _ = io.WriteString(in, "exit\n") // for a shell in a terminal, which does not end with its input
	in.Close()
	err := s.Wait()
	var exit *ssh.ExitError
	if errors.As(err, &exit) && exit.ExitStatus() == 126 {
		said, _ := io.ReadAll(stderr)
		return errors.New(string(said))
	}
	return nil
}

func openChannel(kind string, extra []byte) func(*testing.T, *ssh.Client) error {
	return func(_ *testing.T, c *ssh.Client) error {
		ch, _, err := c.OpenChannel(kind, extra)
		if err == nil {
			ch.Close()
		}
		return err
	}
}

func globalRequest(name string, payload []byte) func(*testing.T, *ssh.Client) error {
	return func(_ *testing.T, c *ssh.Client) error {
		ok, _, err := c.SendRequest(name, true, payload)
		if err == nil && !ok {
			err = errors.New("refused")
		}
		return err
	}
}

func channelRequest(name string, args ...string) func(*testing.T, *ssh.Client) error {
	return func(t *testing.T, c *ssh.Client) error { return sendChannelRequest(newSession(t, c), name, args) }
}

func sendChannelRequest(s *ssh.Session, name string, args []string) error {
	var payload []byte
	for _, a := range args {
		payload = append(payload, wire(a)...)
	}
	ok, err := s.SendRequest(name, true, payload)
	if err == nil && !ok {
		err = errors.New("refused")
	}
	return err
}

// channelRequestWithReason expects words with a refusal, on stderr.
func channelRequestWithReason(name string, args ...string) func(*testing.T, *ssh.Client) error {
	return func(t *testing.T, c *ssh.Client) error {
		s := newSession(t, c)
		err := sendChannelRequest(s, name, args)
		if err != nil {
			said := make([]byte, 4096)
			stderr, _ := s.StderrPipe()
			n, _ := stderr.Read(said)
			err = fmt.Errorf("%w: %s", err, said[:n])
		}
		return err
	}
}

func TestEveryRequestAgainstRolesWithAndWithoutItsGrant(t *testing.T) {
	all := []string{"shell", "exec", "sftp", "forward-local", "forward-remote", "forward-agent"}
	r := newFixture(t, nil)
	roles := []access.Role{fullRole("all", all...)}
	for _, a := range all {
		without := fullRole(
			"without-"+a,
			slices.DeleteFunc(slices.Clone(all), func(x string) bool { return x == a })...)
		denied := fullRole("denied-"+a, all...)
		denied.Deny = []access.Grant{
			{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{a}},
		}
		roles = append(roles, without, denied, fullRole("only-"+a, a))
	}
	r.allow(roles...)
	for _, role := range roles {
		t.Run(role.Name, func(t *testing.T) {
			c := r.client(r.signer(role.Name))
			for _, k := range requestCases {
				granted := k.needs != "" && (role.Name == "all" || role.Name == "only-"+string(k.needs) ||
					!strings.HasPrefix(role.Name, "only-") && !strings.HasSuffix(role.Name, "-"+string(k.needs)))
				err := k.try(t, c)
				if (err == nil) != granted {
					t.Errorf("%s: got %v, want allowed %v", k.name, err, granted)
				}
				if granted || err == nil || k.mute {
					continue
				}
				want := k.words
				if k.needs != "" {
					want = "no role of alice@example.com"
				}
				if k.needs != "" && strings.HasPrefix(role.Name, "denied-") {
					want = "role " + role.Name + ", deny 1"
				}
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %v, want %q in it", k.name, err, want)
				}
			}
		})
	}
	for _, e := range r.recorded(audit.SessionRefused) {
		if e.Reason == "" || e.User != "alice@example.com" || e.Fields["what"] == "" {
			t.Errorf("got refusal %+v, want who, what and why", e)
		}
	}
}

func TestKeepaliveIsAnswered(t *testing.T) {
	c := newFixture(t, nil).client()
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil || !ok {
		t.Errorf("got %v, %v, want a reply", ok, err)
	}
	if ok, err := newSession(t, c).SendRequest("keepalive@openssh.com", true, nil); err != nil || !ok {
		t.Errorf("got %v, %v on a session, want a reply", ok, err)
	}
}

func TestNoMoreSessionsIsEnforced(t *testing.T) {
	c := newFixture(t, nil).client()
	newSession(t, c)
	if _, _, err := c.SendRequest("no-more-sessions@openssh.com", false, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a session is refused", func() bool {
		s, err := c.NewSession()
		if err == nil {
			s.Close()
		}
		return err != nil && strings.Contains(err.Error(), "no further sessions")
	})
}

func TestOneProgramForEachSession(t *testing.T) {
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	in, _ := s.StdinPipe()
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	for _, again := range []string{"exec", "shell", "pty-req"} {
		if ok, err := s.SendRequest(again, true, ssh.Marshal(struct{ C string }{"true"})); err != nil || ok {
			t.Errorf("%s a second time: got %v, %v, want refused", again, ok, err)
		}
	}
	in.Close()
	if err := s.Wait(); err != nil {
		t.Errorf("got %v, want the first program undisturbed", err)
	}
}

func TestSessionsOnOneConnectionAreLimited(t *testing.T) {
	c := newFixture(t, nil).client()
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		_, _, err = c.OpenChannel("session", nil)
	}
	if err == nil || n > 65 || !strings.Contains(err.Error(), "sessions already") {
		t.Errorf("got %v after %d sessions, want a refusal after 64", err, n)
	}
}

func TestNewRulesApplyToTheNextSessionOfAnOpenConnection(t *testing.T) {
	r := newFixture(t, nil)
	c := r.client()
	if got := run(t, c, "echo 1", ""); got.out != "1\n" {
		t.Errorf("got %+v, want it run", got)
	}
	r.allow(fullRole("ops", "sftp"))
	if got := run(t, c, "echo 2", ""); got.status != 126 ||
		!strings.Contains(got.err, "no role of alice@example.com") {
		t.Errorf("got %+v after exec was taken away, want refused", got)
	}
	r.allow()
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "no role of") {
		t.Errorf("got %v after everything was taken away, want refused", err)
	}
}

func TestAnExpiredCertificateStartsNoFurtherSession(t *testing.T) {
	var off time.Duration
	r := newFixture(t, nil)
	r.cancel()
	r.cfg.Now = func() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return time.Now().Add(off) }
	r.serve()
	c := r.client()
	run(t, c, "true", "")
	r.mu.Lock()
	off = 2 * time.Hour
	r.mu.Unlock()
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got %v, want a refusal that says expired", err)
	}
}

func TestSessionsThatCannotBeAuditedDoNotStart(t *testing.T) {
	r := newFixture(t, nil)
	c := r.client()
	r.mu.Lock()
	r.auditErr = fault.New(
		fault.Exhausted,
		"spool.Record",
		"this node's disk is full, so the session cannot be recorded",
		"ask an administrator to free space on the node",
	)
	r.mu.Unlock()
	marker := t.TempDir() + "/ran"
	got := run(t, c, "touch "+marker, "")
	if got.status != 126 || !strings.Contains(got.err, "this node's disk is full") ||
		!strings.Contains(got.err, "hint: ask an administrator to free space") {
		t.Errorf("got %+v, want a refusal with the reason", got)
	}
	r.mu.Lock()
	r.auditErr = nil
	r.mu.Unlock()
	if got := run(t, c, "test ! -e "+marker, ""); got.status != 0 {
		t.Errorf("got %+v: the command ran although it was not on record", got)
	}
}

func TestUnusableAccounts(t *testing.T) {
	r := newFixture(
		t,
		func(c *sshd.Config) { c.Accounts = account.Database{UID: 12345} },
	) // as a node that is not root
	role := fullRole("ops")
	role.Allow[0].Logins = access.Strings{testAccount(), "no-such-account", "daemon"}
	r.allow(role)
	signer := r.cluster.UserSigner(
		r.cluster.User("alice@example.com", "ops"),
		nil,
		testAccount(),
		"no-such-account",
		"daemon",
	)
	for login, want := range map[string]string{"no-such-account": `there is no account "no-such-account" on this node`, "daemon": "this node runs as user id 12345, not as root"} {
		if _, banner, err := r.dial(login, signer); err == nil || !strings.Contains(banner, want) ||
			!strings.Contains(banner, "hint: ") {
			t.Errorf("%s: got %v and %q, want a refusal with %q", login, err, banner, want)
		}
	}
	r2 := newFixture(t, nil)
	r2.client()
}

func TestAPanicEndsOneConnectionOnly(t *testing.T) {
	broken := false
	r := newFixture(t, nil)
	r.cancel()
	record := r.cfg.Audit
	r.cfg.Audit = func(e audit.Event) error {
		r.mu.Lock()
		b := broken
		r.mu.Unlock()
		if b {
			panic("a defect")
		}
		return record(e)
	}
	r.serve()
	one := fullRole("ops")
	one.Options.MaxSessions = 1 // that which met the defect counts no more
	r.allow(one)
	bad, good := r.client(), r.client()
	r.mu.Lock()
	broken = true
	r.mu.Unlock()
	s := newSession(t, bad)
	_ = s.Run("true")
	if err := bad.Wait(); err == nil {
		t.Error("got a connection that lives on, want it closed")
	}
	r.mu.Lock()
	broken = false
	r.mu.Unlock()
	if got := run(t, good, "echo fine", ""); got.out != "fine\n" {
		t.Errorf("got %+v on the other connection, want it undisturbed", got)
	}
	if !strings.Contains(r.logged(), "panic on a connection") {
		t.Error("got nothing in the log, want the defect")
	}
}

// What a client sent before a defect is still on its way in when the connection is closed.
func TestAPanicLeavesNothingBehind(t *testing.T) {
	flood := func(send func(name string, wantReply bool, payload []byte) (bool, error)) {
		for range 100 {
			_, _ = send("more", false, nil)
		}
	}
	for name, meet := range map[string]func(*ssh.Client){
		"in a session": func(c *ssh.Client) {
			ch, _, err := c.OpenChannel("session", nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = ch.SendRequest("exec", false, wire("true"))
			flood(ch.SendRequest)
		},
		"in a request": func(c *ssh.Client) {
			_, _, _ = c.SendRequest("tcpip-forward", false, wire("127.0.0.1", uint32(0)))
			flood(func(name string, reply bool, data []byte) (bool, error) {
				_, _, err := c.SendRequest(name, reply, data)
				return false, err
			})
		},
		"at a channel": func(c *ssh.Client) {
			for range 40 {
				go func() { _, _, _ = c.OpenChannel("direct-tcpip", nil) }()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newFixture(t, nil)
			r.cancel()
			sent := make(chan struct{})
			r.cfg.Audit = func(audit.Event) error { <-sent; panic("a defect") }
			r.allow(fullRole("ops", "exec", "forward-remote"))
			r.serve()
			c := r.client()
			meet(c)
			close(sent)
			_ = c.Wait()
			_, done := r.drain()
			receive(t, "the connection's end", done)
		})
	}
}

// Whoever stalls is waited for until the first offer of a key, and somewhat longer then: a person may have to
// touch theirs.
func TestAHandshakeThatStallsIsEnded(t *testing.T) {
	r := newFixture(t, nil)
	stall := func(t *testing.T, client func(net.Conn)) time.Duration {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); client(near) }()
		start := time.Now()
		sshd.New(r.cfg).
			Serve(t.Context(), far, sshd.Origin{From: "192.0.2.1:1", Proxy: "proxy-1", Protocol: "dial"})
		took := time.Since(start)
		near.Close()
		<-done
		return took
	}
	for name, first := range map[string]string{"silence": "", "another protocol": "GET / HTTP/1.1\r\n\r\n", "half a version": "SSH-2.0", "a version and no more": "SSH-2.0-x\r\n", "half a packet": "SSH-2.0-x\r\n\x00\x00\x01\x00\x08\x14"} {
		synctest.Test(t, func(t *testing.T) {
			took := stall(t, func(c net.Conn) {
				go func() { _, _ = io.WriteString(c, first) }()
				_, _ = io.Copy(io.Discard, c)
			})
			if took != 10*time.Second {
				t.Errorf("%s: got held for %s, want 10s", name, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		touch := ssh.PublicKeysCallback(
			func() ([]ssh.Signer, error) { <-gone; return nil, errors.New("nobody touched it") },
		)
		took := stall(t, func(c net.Conn) {
			time.AfterFunc(time.Minute, func() { close(gone) })
			_, _, _, _ = ssh.NewClientConn(
				&asyncWriteConn{Conn: c},
				"",
				&ssh.ClientConfig{
					User:            "x",
					Auth:            []ssh.AuthMethod{touch},
					HostKeyCallback: ssh.InsecureIgnoreHostKey(),
				},
			)
		})
		if took != 30*time.Second {
			t.Errorf("a key that nobody touches: got held for %s, want 30s", took)
		}
	})
}

// asyncWriteConn is a pipe whose writes wait for nobody: both ends of SSH begin with one.
type asyncWriteConn struct {
	net.Conn
	previous chan struct{} // closed once the write before is done
}

func (p *asyncWriteConn) Write(b []byte) (int, error) {
	before, done := p.previous, make(chan struct{})
	p.previous = done
	b = bytes.Clone(b)
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		_, _ = p.Conn.Write(b)
	}()
	return len(b), nil
}

func TestGarbageBeforeLogin(t *testing.T) {
	r := newFixture(t, nil)
	for name, bytes := range map[string]string{"a version and nonsense": "SSH-2.0-x\r\n" + strings.Repeat("\xff", 100), "an endless version": strings.Repeat("x", 1<<16)} {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, bytes)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got an open connection after 5 s, want it closed", name)
		}
		conn.Close()
	}
	r.client()
}

// switchingSigner asks about one certificate and, once that is accepted, signs by another.
type switchingSigner struct {
	ssh.Signer               // of the second
	offered    ssh.PublicKey // the first
}

func (c switchingSigner) PublicKey() ssh.PublicKey {
	return &switchingKey{PublicKey: c.offered, later: c.Signer.PublicKey()}
}

type switchingKey struct {
	ssh.PublicKey
	later      ssh.PublicKey
	marshalled int
}

func (k *switchingKey) Marshal() []byte {
	if k.marshalled++; k.marshalled > 2 { // the question, and the look at its answer
		return k.later.Marshal()
	}
	return k.PublicKey.Marshal()
}

func TestIdentityIsThatOfTheKeyThatSigned(t *testing.T) {
	r := newFixture(t, nil)
	r.allow(fullRole("ops"), fullRole("files", "sftp"))
	bob := r.cluster.UserSigner(r.cluster.User("bob@example.com", "files"), nil, testAccount())
	c := r.client(switchingSigner{bob, r.signer().PublicKey()}) // Alice, who may run commands, is asked about
	if err := newSession(t, c).Run("true"); err == nil {
		t.Error("got a command run by what Alice may, want it refused to Bob")
	}
	if err := newSession(t, c).RequestSubsystem("sftp"); err != nil {
		t.Errorf("got %v for what Bob may", err)
	}
	events := append(r.recorded(audit.SessionStarted), r.recorded(audit.SessionRefused)...)
	for _, e := range events {
		if e.User != "bob@example.com" {
			t.Errorf("got %s on record, want bob@example.com", e.User)
		}
	}
	if len(events) != 2 {
		t.Errorf("got %d events, want a refusal and a start", len(events))
	}
}
