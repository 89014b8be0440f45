package member_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/internal/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newConfig is the configuration of a node that is to join c.
func newConfig(t *testing.T, cluster *clustertest.Cluster) member.Config {
	return member.Config{
		Dir:      filepath.Join(t.TempDir(), "data"),
		Kind:     identity.Node,
		AuthAddr: cluster.Addr(),
		Dialer:   cluster.Dialer(),
		Token:    cluster.Token(identity.Node),
		Name:     "web-1",
		Labels:   identity.Labels{"env": "test"},
	}
}

func loadOrJoin(t *testing.T, cfg member.Config) *member.Member {
	t.Helper()
	machine, err := member.LoadOrJoin(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return machine
}

// wantFault checks that err is a fault of the kind with a remedy, and that its message has each of the words.
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

// A join gives the machine its identity, and after a restart it is the same member without a token.
func TestAMachineJoinsOnceAndIsStillAMemberAfterARestart(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewInMemory(t)
	cfg := newConfig(t, cluster)
	first := loadOrJoin(t, cfg)
	if got := first.Identity(); got.Name != "web-1" || got.Kind != identity.Node ||
		got.Cluster != clustertest.Name ||
		got.Labels["env"] != "test" {
		t.Errorf("got identity %+v, want node web-1 of the cluster", got)
	}
	if first.Pin() != cluster.Pin() {
		t.Errorf("got pin %s, want %s", first.Pin(), cluster.Pin())
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
	err = identity.VerifySSHHost(host.PublicKey(), "web-1", authorities(cluster), time.Now())
	if err != nil {
		t.Errorf("host certificate: %v", err)
	}
}

// After a join the data directory has its three files and nothing else, all closed to other accounts.
func TestKeysAreReadableByTheOwnerOnly(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t, clustertest.NewInMemory(t))
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

// Each case is a mistake of an administrator. The fault says what is wrong and does not repeat the token, and
// no membership is saved.
func TestJoinsThatAreRefused(t *testing.T) {
	t.Parallel()
	cluster, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	joined := newConfig(t, cluster) // its token is used up
	loadOrJoin(t, joined)
	for _, tt := range []struct {
		name   string
		change func(*member.Config)
		kind   fault.Kind
		words  []string
	}{
		{"without a token", func(cfg *member.Config) { cfg.Token = "" }, fault.Unauthenticated,
			[]string{"no join token"}},
		{"with half a token", func(cfg *member.Config) { cfg.Token = cfg.Token[:20] }, fault.Invalid,
			[]string{"no join token"}},
		{"with a token for a proxy", func(cfg *member.Config) { cfg.Token = cluster.Token(identity.Proxy) },
			fault.Invalid, []string{"proxy", "node"}},
		{"with a token used before", func(cfg *member.Config) { cfg.Token = joined.Token }, fault.Expired,
			[]string{"used already"}},
		{"with another cluster's token", func(cfg *member.Config) { cfg.Token = other.Token(identity.Node) },
			fault.Denied, []string{other.Pin().String()}},
		{"with a clock 10 minutes behind",
			func(cfg *member.Config) { cfg.Now = clustertest.SkewedClock(-10 * time.Minute) }, fault.Invalid,
			[]string{"this machine's clock says " +
				time.Now().Add(-10*time.Minute).UTC().Format("2006-01-02T15"), "from " +
				time.Now().UTC().Format("2006-01-02T")}},
		{"with a clock 10 minutes ahead",
			func(cfg *member.Config) { cfg.Now = clustertest.SkewedClock(10 * time.Minute) }, fault.Invalid,
			[]string{"this machine's clock says", "auth's says", "apart"}},
		{"with an address where nothing listens", func(cfg *member.Config) { cfg.AuthAddr = "127.0.0.1:1" },
			fault.Unavailable, []string{"127.0.0.1:1"}},
		{"without an address", func(cfg *member.Config) { cfg.AuthAddr = "" }, fault.Invalid, nil},
		{"without a directory", func(cfg *member.Config) { cfg.Dir = "" }, fault.Invalid, nil},
		{"as an auth replica", func(cfg *member.Config) { cfg.Kind = identity.Auth }, fault.Invalid, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, cluster)
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

// Each case is an answer by which a false or broken auth could mislead the machine. It is refused, nothing is
// saved, and a new token makes the machine a member afterwards.
func TestNothingIsKeptOfAnAnswerThatDoesNotVerify(t *testing.T) {
	t.Parallel()
	cluster, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	donor := loadOrJoin(t, newConfig(t, cluster))
	for _, tt := range []struct {
		name   string
		change func(*authrpc.JoinResponse)
	}{
		{"another cluster's rules", func(r *authrpc.JoinResponse) { r.Rules = other.SignRules() }},
		{"no rules", func(r *authrpc.JoinResponse) { r.Rules.Chain = nil }},
		{"another machine's certificate",
			func(r *authrpc.JoinResponse) { cert, _ := donor.TLSCertificate(); r.X509 = cert.Certificate }},
		{"another machine's host certificate",
			func(r *authrpc.JoinResponse) {
				host, _ := donor.HostSigner()
				r.SSHCert = host.PublicKey().Marshal()
			}},
		{"a proxy's certificate",
			func(r *authrpc.JoinResponse) {
				r.X509 = cluster.ServiceCertificate(identity.Proxy, "p").Certificate
			}},
		{"no certificate", func(r *authrpc.JoinResponse) { r.X509 = nil }},
		{"a host key without certificate", func(r *authrpc.JoinResponse) { r.SSHCert = []byte("x") }},
		{"no root", func(r *authrpc.JoinResponse) { r.X509 = r.X509[:2] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, cluster)
			cluster.Corrupt(tt.change)
			_, err := member.LoadOrJoin(t.Context(), cfg)
			wantFault(t, err, fault.Denied, "cannot be verified")
			if _, err := os.Stat(filepath.Join(cfg.Dir, "membership.json")); err == nil {
				t.Error("a membership was kept")
			}
			cluster.Corrupt(nil)
			cfg.Token = cluster.Token(identity.Node)
			loadOrJoin(t, cfg)
		})
	}
}

// Each case changes the data directory of a member. LoadOrJoin then says what is wrong, instead of starting
// with a part of the membership or joining again.
func TestAMembershipThatWasTamperedWithIsRefused(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewInMemory(t)
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
		words  string
	}{
		{"keys others may read",
			func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "host.key"), 0o644) },
			"other accounts may read"},
		{"a directory others may enter", func(t *testing.T, dir string) { chmod(t, dir, 0o755) },
			"other accounts may enter"},
		{"a cut document",
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "membership.json"), `{"v":1,`) },
			"is damaged"},
		{"a newer document", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "membership.json"), `{"v":9,"pin":"`+cluster.Pin().String()+`"}`)
		}, "it is of version 9, this program reads 1 to 1"},
		{"a document of no version", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "membership.json"), `{"pin":"`+cluster.Pin().String()+`"}`)
		}, "it is of version 0"},
		{"a document with a critical field that is unknown", func(t *testing.T, dir string) {
			alter(t, dir, `{"v":1,`, `{"v":1,"critical":["pin","address"],"address":"10.0.0.1",`)
		}, `does not know the field "address"`},
		{"a document without certificates", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "membership.json"), `{"v":1,"pin":"`+cluster.Pin().String()+`"}`)
		}, "is damaged"},
		{"no key", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "service.key"), "") },
			"not a PEM private key"},
		{"keys swapped", func(t *testing.T, dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, "host.key"))
			write(t, filepath.Join(dir, "service.key"), string(b))
		}, "service.key holds"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, cluster)
			loadOrJoin(t, cfg)
			tt.change(t, cfg.Dir)
			_, err := member.LoadOrJoin(t.Context(), cfg)
			wantFault(t, err, fault.Invalid, tt.words)
		})
	}
}

// alter replaces text in membership.json.
func alter(t *testing.T, dir, old, text string) {
	t.Helper()
	path := filepath.Join(dir, "membership.json")
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), old) {
		t.Fatalf("got %.80s (%v), want %q in it", b, err, old)
	}
	write(t, path, strings.Replace(string(b), old, text, 1))
}

// A membership that a newer program wrote, with a field that this one may ignore, is used.
func TestAnUnknownFieldOfAMembershipIsIgnored(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t, clustertest.NewInMemory(t))
	first := loadOrJoin(t, cfg)
	alter(t, cfg.Dir, `{"v":1,`, `{"v":1,"critical":["rules"],"address":{"auth":"10.0.0.1:3025"},`)
	if again := loadOrJoin(t, cfg); again.Identity().ID != first.Identity().ID {
		t.Errorf("got machine %s, want %s", again.Identity().ID, first.Identity().ID)
	}
}

// The golden membership was written by the first version. Later ones must read it.
func TestTheGoldenMembershipIsRead(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile(filepath.Join("testdata", "membership.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := member.ParseMembership(golden)
	if err != nil {
		t.Fatal(err)
	}
	set, err := os.ReadFile(filepath.Join("..", "rules", "testdata", "set.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want rules.Set
	if err := json.Unmarshal(set, &want); err != nil {
		t.Fatal(err)
	}
	if got.Pin != (identity.Pin{1, 2, 3}) || string(got.SSHCert) != "host certificate" ||
		len(got.X509) != 2 || string(got.X509[0]) != "leaf" || string(got.X509[1]) != "root" ||
		!reflect.DeepEqual(got.Rules, want) {
		t.Errorf("got %+v, want the pin, the certificates and the rules", got)
	}
}

// A member refuses a token of another cluster. A token of its own cluster it ignores: another machine can
// still use it.
func TestAMemberDoesNotChangeClusters(t *testing.T) {
	t.Parallel()
	cluster, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	cfg := newConfig(t, cluster)
	loadOrJoin(t, cfg)
	cfg.Token = other.Token(identity.Node)
	_, err := member.LoadOrJoin(t.Context(), cfg)
	wantFault(t, err, fault.Conflict, "another cluster")
	cfg.Token = cluster.Token(identity.Node) // a new token of the same cluster is accepted and not used
	loadOrJoin(t, cfg)
	loadOrJoin(
		t,
		member.Config{
			Dir:      t.TempDir() + "/d",
			Kind:     identity.Node,
			AuthAddr: cluster.Addr(),
			Dialer:   cluster.Dialer(),
			Token:    cfg.Token,
			Name:     "web-2",
		},
	)
}

// inBubble runs Run of a member in a bubble of synctest: f gets the cluster, the member and its
// configuration.
func inBubble(
	t *testing.T,
	f func(t *testing.T, cluster *clustertest.Cluster, machine *member.Member, cfg member.Config),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cluster := clustertest.NewInMemory(t)
		cfg := newConfig(t, cluster)
		machine := loadOrJoin(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- machine.Run(ctx) }()
		f(t, cluster, machine, cfg)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v from Run, want nil", err)
		}
	})
}

// after lets time pass in a bubble, and all goroutines come to rest.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// With certificates of 24 h there is no renewal before 14 h, one by 18 h and a second by 36 h. What was
// renewed is on disk.
func TestCertificatesAreRenewedAtTwoThirdsOfTheirLifetime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, cluster *clustertest.Cluster, machine *member.Member, cfg member.Config) {
		first := machine.Identity().Expires
		if after(14 * time.Hour); cluster.Renewals() != 0 {
			t.Errorf("got %d renewals after 14h of 24h, want none", cluster.Renewals())
		}
		if after(4 * time.Hour); cluster.Renewals() != 1 || !machine.Identity().Expires.After(first) {
			t.Errorf("got %d renewals after 18h of 24h and the end %s, want one", cluster.Renewals(),
				machine.Identity().Expires)
		}
		if after(18 * time.Hour); cluster.Renewals() != 2 {
			t.Errorf("got %d renewals after 36h, want two", cluster.Renewals())
		}
		cfg.Token = ""
		if again := loadOrJoin(t, cfg); !again.Identity().Expires.Equal(machine.Identity().Expires) {
			t.Errorf("got %s on disk, want %s", again.Identity().Expires, machine.Identity().Expires)
		}
	})
}

// A machine that was off until its certificates expired starts all the same, and renews them at once.
func TestExpiredCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cluster := clustertest.NewInMemory(t)
		cfg := newConfig(t, cluster)
		loadOrJoin(t, cfg)
		after(72 * time.Hour) // the machine was off
		machine := loadOrJoin(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- machine.Run(ctx) }()
		synctest.Wait()
		if cluster.Renewals() != 1 || !machine.Identity().Expires.After(time.Now()) {
			t.Errorf(
				"got %d renewals and the end %s, want one at once",
				cluster.Renewals(),
				machine.Identity().Expires,
			)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v from Run, want nil", err)
		}
	})
}

// An answer to a renewal that does not verify changes nothing. The machine goes on to try until auth answers
// rightly.
func TestARenewalForAnotherMachineIsNotUsed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, cluster *clustertest.Cluster, machine *member.Member, _ member.Config) {
		other := clustertest.NewInMemory(t).SignRules()
		cluster.Corrupt(func(r *authrpc.JoinResponse) { r.Rules = other })
		first := machine.Identity().Expires
		after(18 * time.Hour)
		tries := cluster.Renewals()
		if tries < 2 || !machine.Identity().Expires.Equal(first) {
			t.Errorf(
				"got %d tries and the end %s, want several and %s",
				tries,
				machine.Identity().Expires,
				first,
			)
		}
		if after(5 * time.Minute); cluster.Renewals() == tries {
			t.Error("got no further try within 5 minutes, want it to go on")
		}
		cluster.Corrupt(nil)
		if after(5 * time.Minute); !machine.Identity().Expires.After(first) {
			t.Error("got no renewal once auth answers for this machine again")
		}
	})
}

// A join on a full disk fails before the token is sent, so that the token can be used when there is space.
// Only root can mount a small disk; for others only the fault is tested.
func TestAFullDiskLeavesTheTokenUsable(t *testing.T) {
	t.Parallel()
	noSpace := &os.PathError{Op: "write", Path: "/data/x", Err: syscall.ENOSPC}
	if err := member.DiskFault("/data/x", noSpace); !fault.Is(err, fault.Exhausted) {
		t.Errorf("got %v, want the kind exhausted", err)
	}
	cluster := clustertest.NewInMemory(t)
	cfg := newConfig(t, cluster)
	full := t.TempDir()
	if err := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		return // only root may mount; the fault was checked above
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
	loadOrJoin(t, cfg) // the token can still be used
}

func authorities(cluster *clustertest.Cluster) []ssh.PublicKey {
	return []ssh.PublicKey{cluster.HostAuthority()}
}

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
