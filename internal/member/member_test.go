package member_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/internal/member/membertest"
)

func newConfig(t *testing.T, c *membertest.Cluster) member.Config {
	return member.Config{
		Dir:      filepath.Join(t.TempDir(), "data"),
		Kind:     identity.Node,
		AuthAddr: c.Addr(),
		Token:    c.Token(identity.Node),
		Name:     "web-1",
		Labels:   identity.Labels{"env": "test"},
	}
}

func loadOrJoin(t *testing.T, cfg member.Config) *member.Member {
	t.Helper()
	m, err := member.LoadOrJoin(t.Context(), cfg)
	if err != nil {
		t.Fatalf("enter: %v", err)
	}
	return m
}

// wantFault checks that a fault of the kind came, that it mentions each word, and that it says what to do.
func wantFault(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if fault.KindOf(err) != kind {
		t.Fatalf("got %v (kind %q), want kind %q", err, fault.KindOf(err), kind)
	}
	if fault.Remedy(err) == "" {
		t.Errorf("got no remedy with %v", err)
	}
	for _, w := range words {
		if !strings.Contains(fault.Message(err), w) {
			t.Errorf("got message %q, want %q in it", fault.Message(err), w)
		}
	}
}

func TestAMachineJoinsOnceAndIsStillAMemberAfterARestart(t *testing.T) {
	c := membertest.New(t)
	cfg := newConfig(t, c)
	first := loadOrJoin(t, cfg)
	if got := first.Identity(); got.Name != "web-1" || got.Kind != identity.Node ||
		got.Cluster != membertest.Name ||
		got.Labels["env"] != "test" {
		t.Errorf("got identity %+v, want node web-1 of the cluster", got)
	}
	if first.Pin() != c.Pin() {
		t.Errorf("got pin %s, want %s", first.Pin(), c.Pin())
	}
	cfg.Token = ""
	again := loadOrJoin(t, cfg)
	if again.Identity().ID != first.Identity().ID {
		t.Errorf("got id %s after a restart, want %s", again.Identity().ID, first.Identity().ID)
	}
	host, err := again.HostSigner()
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.VerifySSHHost(host.PublicKey(), "web-1", authorities(c), time.Now()); err != nil {
		t.Errorf("host certificate: %v", err)
	}
}

func TestKeysAreReadableByTheOwnerOnly(t *testing.T) {
	cfg := newConfig(t, membertest.New(t))
	loadOrJoin(t, cfg)
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("got %d files, want 3 and nothing half-written: %v", len(entries), entries)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, want mode 0600", e.Name(), info.Mode())
		}
	}
	if info, err := os.Stat(cfg.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got directory mode %v, want 0700", info.Mode())
	}
}

func TestJoinsThatAreRefused(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	spent := newConfig(t, c)
	loadOrJoin(t, spent)
	for _, tt := range []struct {
		name   string
		change func(*member.Config)
		kind   fault.Kind
		words  []string
	}{
		{"without a token", func(cfg *member.Config) { cfg.Token = "" }, fault.Unauthenticated, []string{"no join token"}},
		{"with half a token", func(cfg *member.Config) { cfg.Token = cfg.Token[:20] }, fault.Invalid, []string{"no join token"}},
		{"with a token for a proxy", func(cfg *member.Config) { cfg.Token = c.Token(identity.Proxy) }, fault.Invalid, []string{"proxy", "node"}},
		{"with a token used before", func(cfg *member.Config) { cfg.Token = spent.Token }, fault.Expired, []string{"used already"}},
		{"with another cluster's token", func(cfg *member.Config) { cfg.Token = other.Token(identity.Node) }, fault.Denied, []string{other.Pin().String()}},
		{"with a clock 10 minutes behind", func(cfg *member.Config) { cfg.Now = membertest.SkewedClock(-10 * time.Minute) }, fault.Invalid,
			[]string{"this machine's clock says " + time.Now().Add(-10*time.Minute).UTC().Format("2006-01-02T15"), "from " + time.Now().UTC().Format("2006-01-02T")}},
		{"with a clock 10 minutes ahead", func(cfg *member.Config) { cfg.Now = membertest.SkewedClock(10 * time.Minute) }, fault.Invalid,
			[]string{"this machine's clock says", "auth's says", "apart"}},
		{"with nobody at the address", func(cfg *member.Config) { cfg.AuthAddr = "127.0.0.1:1" }, fault.Unavailable, []string{"127.0.0.1:1"}},
		{"without an address", func(cfg *member.Config) { cfg.AuthAddr = "" }, fault.Invalid, nil},
		{"without a directory", func(cfg *member.Config) { cfg.Dir = "" }, fault.Invalid, nil},
		{"as an auth replica", func(cfg *member.Config) { cfg.Kind = identity.Auth }, fault.Invalid, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, c)
			tt.change(&cfg)
			_, err := member.LoadOrJoin(t.Context(), cfg)
			wantFault(t, err, tt.kind, tt.words...)
			if cfg.Token != "" && strings.Contains(err.Error(), cfg.Token) {
				t.Error("the error repeats the token")
			}
			if _, err := os.Stat(filepath.Join(cfg.Dir, "membership.json")); cfg.Dir != "" && err == nil {
				t.Error("a membership was kept")
			}
		})
	}
}

func TestNothingIsKeptOfAnAnswerThatDoesNotVerify(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	donor := loadOrJoin(t, newConfig(t, c))
	for _, tt := range []struct {
		name   string
		change func(*authrpc.JoinResponse)
	}{
		{"another cluster's rules", func(r *authrpc.JoinResponse) { r.Rules = other.SignRules() }},
		{"no rules", func(r *authrpc.JoinResponse) { r.Rules.Chain = nil }},
		{"another machine's certificate", func(r *authrpc.JoinResponse) { cert, _ := donor.TLSCertificate(); r.X509 = cert.Certificate }},
		{"another machine's host certificate", func(r *authrpc.JoinResponse) { s, _ := donor.HostSigner(); r.SSHCert = s.PublicKey().Marshal() }},
		{"a proxy's certificate", func(r *authrpc.JoinResponse) { r.X509 = c.ServiceCertificate(identity.Proxy, "p").Certificate }},
		{"no certificate", func(r *authrpc.JoinResponse) { r.X509 = nil }},
		{"a host key without certificate", func(r *authrpc.JoinResponse) { r.SSHCert = []byte("x") }},
		{"no root", func(r *authrpc.JoinResponse) { r.X509 = r.X509[:2] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, c)
			c.Corrupt(tt.change)
			_, err := member.LoadOrJoin(t.Context(), cfg)
			wantFault(t, err, fault.Denied, "does not verify")
			if _, err := os.Stat(filepath.Join(cfg.Dir, "membership.json")); err == nil {
				t.Error("a membership was kept")
			}
			c.Corrupt(nil)
			cfg.Token = c.Token(identity.Node)
			loadOrJoin(t, cfg)
		})
	}
}

func TestAMembershipThatWasTamperedWithIsRefused(t *testing.T) {
	c := membertest.New(t)
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
		words  string
	}{
		{"keys others may read", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "host.key"), 0o644) }, "others may read"},
		{"a directory others may enter", func(t *testing.T, dir string) { chmod(t, dir, 0o755) }, "others may enter"},
		{"a cut document", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "membership.json"), `{"v":1,`) }, "does not hold together"},
		{"a newer document", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "membership.json"), `{"v":9,"pin":"`+c.Pin().String()+`"}`)
		}, "version 9"},
		{"a document without certificates", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "membership.json"), `{"v":1,"pin":"`+c.Pin().String()+`"}`)
		}, "does not hold together"},
		{"no key", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "service.key"), "") }, "no PEM private key"},
		{"keys swapped", func(t *testing.T, dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, "host.key"))
			write(t, filepath.Join(dir, "service.key"), string(b))
		}, "service.key holds"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, c)
			loadOrJoin(t, cfg)
			tt.change(t, cfg.Dir)
			_, err := member.LoadOrJoin(t.Context(), cfg)
			wantFault(t, err, fault.Invalid, tt.words)
		})
	}
}

func TestAMemberDoesNotChangeClusters(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	cfg := newConfig(t, c)
	loadOrJoin(t, cfg)
	cfg.Token = other.Token(identity.Node)
	_, err := member.LoadOrJoin(t.Context(), cfg)
	wantFault(t, err, fault.Conflict, "another cluster")
	cfg.Token = c.Token(identity.Node) // a new token of the same cluster is not spent
	loadOrJoin(t, cfg)
	loadOrJoin(
		t,
		member.Config{
			Dir:      t.TempDir() + "/d",
			Kind:     identity.Node,
			AuthAddr: c.Addr(),
			Token:    cfg.Token,
			Name:     "web-2",
		},
	)
}

func TestCertificatesAreRenewedInPlace(t *testing.T) {
	for _, tt := range []struct {
		name string
		off  time.Duration
		want bool
	}{
		{"at once when young: no", 0, false},
		{"before two thirds: no", 14 * time.Hour, false},
		{"after two thirds", 18 * time.Hour, true},
		{"after the end", 72 * time.Hour, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := membertest.New(t)
			cfg := newConfig(t, c)
			before := loadOrJoin(t, cfg)
			c.SetClock(tt.off)
			cfg.Now, cfg.Token = c.Now, ""
			m := loadOrJoin(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx) }()
			for tt.want && c.Renewals() == 0 && ctx.Err() == nil || m.Identity().Expires.Equal(before.Identity().Expires) && tt.want && ctx.Err() == nil {
				<-time.After(time.Millisecond)
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("got %v from Run, want nil", err)
			}
			if got := m.Identity().Expires.After(before.Identity().Expires); got != tt.want {
				t.Errorf("got renewed %v, want %v", got, tt.want)
			}
			again := loadOrJoin(t, cfg)
			if !again.Identity().Expires.Equal(m.Identity().Expires) {
				t.Errorf("got %s on disk, want %s", again.Identity().Expires, m.Identity().Expires)
			}
		})
	}
}

func TestARenewalForAnotherMachineIsNotUsed(t *testing.T) {
	c := membertest.New(t)
	cfg := newConfig(t, c)
	loadOrJoin(t, cfg)
	other := membertest.New(t).SignRules()
	asked := make(chan struct{}, 8)
	c.Corrupt(func(r *authrpc.JoinResponse) { r.Rules = other; asked <- struct{}{} })
	c.SetClock(18 * time.Hour)
	cfg.Now, cfg.Token = c.Now, ""
	m := loadOrJoin(t, cfg)
	want := m.Identity().Expires
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	<-asked
	<-asked // it tries again
	cancel()
	if err := <-done; err != nil || !m.Identity().Expires.Equal(want) {
		t.Errorf("got %v and end %s, want nil and %s", err, m.Identity().Expires, want)
	}
}

func TestTheTokenIsNotSpentOnAFullDisk(t *testing.T) {
	if err := member.DiskFault("/data/x", &os.PathError{Op: "write", Path: "/data/x", Err: syscall.ENOSPC}); !fault.Is(
		err,
		fault.Exhausted,
	) {
		t.Errorf("got %v, want the kind exhausted", err)
	}
	c := membertest.New(t)
	cfg := newConfig(t, c)
	full := t.TempDir()
	if err := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		return // only root may mount; the rest was looked at above
	}
	t.Cleanup(func() { _ = syscall.Unmount(full, 0) })
	dir := cfg.Dir
	cfg.Dir = full
	_, err := member.LoadOrJoin(t.Context(), cfg)
	wantFault(t, err, fault.Exhausted, "the disk is full", full)
	if left, _ := os.ReadDir(full); len(left) != 0 {
		t.Errorf("got %v left behind, want nothing", left)
	}
	cfg.Dir = dir
	loadOrJoin(t, cfg) // the token is still good
}

func authorities(c *membertest.Cluster) []ssh.PublicKey { return []ssh.PublicKey{c.HostAuthority()} }

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
