package sshd

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/pty"
)

// measured is a connection without a network: what is measured is time.
type measured struct {
	*connection
	trust atomic.Pointer[rules.Trust]
	ended chan *ending
	shown chan string // lines on the one terminal
}

// measure must be called in a bubble. The person has the role ops.
func measure(ctx context.Context, o access.Options, life time.Duration) *measured {
	m := &measured{ended: make(chan *ending, 1), shown: make(chan string, 100)}
	m.allow(access.Role{Name: "ops", Options: o})
	srv := New(Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Rules: m.trust.Load})
	who := identity.SSHUser{Identity: identity.Identity{Kind: identity.User, Name: "alice", Connector: "corp", Subject: "1", Roles: []string{"ops"}}}
	m.connection = &connection{srv: srv, who: who, leash: newLeash(time.Now().Add(life)), live: map[*talk]chan struct{}{}, changed: make(chan struct{}, 1)}
	go func() { m.ended <- m.watch(ctx) }()
	return m
}

// allow puts roles in force.
func (m *measured) allow(roles ...access.Role) {
	p := access.Policy{}
	for _, r := range roles {
		p[r.Name] = r
	}
	m.trust.Store(&rules.Trust{Policy: p})
}

// terminal opens a session with a terminal on the connection.
func (m *measured) terminal() {
	t := &talk{conn: m.connection, ch: screen{lines: m.shown}}
	t.term = &pty.Request{}
	m.mu.Lock()
	m.sessions++
	m.live[t] = make(chan struct{})
	m.mu.Unlock()
	m.leash.terminals.Add(1)
}

// at waits until so long after the start and reports whether the connection has ended by then.
func (m *measured) at(start time.Time, d time.Duration) *ending {
	<-time.After(time.Until(start.Add(d)))
	synctest.Wait()
	select {
	case e := <-m.ended:
		return e
	default:
		return nil
	}
}

const minute, hour = access.Duration(time.Minute), access.Duration(time.Hour)

func TestTheSoonestLimitEndsAConnection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options access.Options
		life    time.Duration // of the certificate
		ends    time.Duration // zero: never
		by      string
		says    string
	}{
		{"no limit", access.Options{}, time.Minute, 0, "", ""},
		{"nothing typed", access.Options{IdleTimeout: 10 * minute}, time.Hour, 10 * time.Minute, "idle_timeout", "nothing was typed for 10m (role ops, idle_timeout)"},
		{"the longest session", access.Options{MaxSession: 2 * hour, IdleTimeout: 3 * hour}, time.Hour, 2 * time.Hour, "max_session", "it may last 2h (role ops, max_session)"},
		{"the certificate", access.Options{EndWithCertificate: true, MaxSession: 2 * hour}, time.Hour, time.Hour, "end_with_certificate", "ended with its certificate (role ops, end_with_certificate)"},
		{"a certificate that may end", access.Options{MaxSession: 2 * hour}, time.Hour, 2 * time.Hour, "max_session", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				m := measure(t.Context(), tt.options, tt.life)
				if tt.ends == 0 {
					if e := m.at(start, 48*time.Hour); e != nil {
						t.Errorf("got ended by %s, want it to go on", e.by)
					}
					return
				}
				if e := m.at(start, tt.ends-time.Millisecond); e != nil {
					t.Fatalf("got ended by %s before %s", e.by, tt.ends)
				}
				e := m.at(start, tt.ends)
				if e == nil || e.by != tt.by || !strings.Contains(fault.Message(e), tt.says) || fault.Remedy(e) == "" {
					t.Errorf("got %v, want ended by %s, with %q and a remedy", e, tt.by, tt.says)
				}
			})
		})
	}
}

func TestTypingPutsTheIdleTimeoutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m := measure(t.Context(), access.Options{IdleTimeout: 10 * minute, MaxSession: hour}, time.Hour)
		for d := time.Duration(0); d < 50*time.Minute; d += 9 * time.Minute {
			if e := m.at(start, d); e != nil {
				t.Fatalf("after %s: got ended by %s", d, e.by)
			}
			m.leash.typed()
		}
		if e := m.at(start, 55*time.Minute-time.Second); e != nil {
			t.Fatalf("got ended by %s, want 10m from the last key on", e.by)
		}
		if e := m.at(start, 55*time.Minute); e == nil || e.by != "idle_timeout" {
			t.Errorf("got %v, want ended by idle_timeout", e)
		}
	})
}

func TestWhatIsForwardedCountsOnlyWithoutATerminal(t *testing.T) {
	for _, tt := range []struct {
		name      string
		terminals int32
		ends      time.Duration
	}{{"alone", 0, 15 * time.Minute}, {"beside a terminal", 1, 10 * time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			m := measure(t.Context(), access.Options{IdleTimeout: 10 * minute}, time.Hour)
			m.leash.terminals.Store(tt.terminals)
			m.at(start, 5*time.Minute)
			m.leash.forwarded()
			if e := m.at(start, tt.ends-time.Second); e != nil {
				t.Fatalf("%s: got ended early", tt.name)
			}
			if e := m.at(start, tt.ends); e == nil {
				t.Errorf("%s: got no end after %s", tt.name, tt.ends)
			}
		})
	}
}

func TestARoleThatChangesHoldsForWhoIsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m := measure(t.Context(), access.Options{}, time.Hour)
		if e := m.at(start, 20*time.Minute+time.Second); e != nil {
			t.Fatalf("got ended by %s without a limit", e.by)
		}
		m.allow(access.Role{Name: "ops", Options: access.Options{MaxSession: 10 * minute}})
		if e := m.at(start, 20*time.Minute+time.Second+limitsEvery); e == nil || e.by != "max_session" {
			t.Errorf("got %v, want ended by max_session within %s", e, limitsEvery)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m := measure(t.Context(), access.Options{MaxSession: 10 * minute}, time.Hour)
		m.at(start, 9*time.Minute)
		m.allow()
		if e := m.at(start, 20*time.Minute); e != nil {
			t.Errorf("got ended by %s, want the limit gone with the role", e.by)
		}
	})
}

func TestTerminalsAreWarnedOnceBeforeALongLimit(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options access.Options
		until   time.Duration
		want    []string
	}{
		{"the longest session", access.Options{MaxSession: 10 * minute}, 10 * time.Minute, []string{"ends in 1m0s (role ops, max_session)"}},
		{"the certificate", access.Options{EndWithCertificate: true}, time.Hour, []string{"ends in 1m0s with its certificate (role ops, end_with_certificate)"}},
		{"a short limit", access.Options{MaxSession: minute}, time.Minute, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := measure(t.Context(), tt.options, time.Hour)
			m.terminal()
			if e := m.at(time.Now(), tt.until); e == nil {
				t.Fatalf("%s: got no end", tt.name)
			}
			m.sees(t, tt.name, tt.want...)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m := measure(t.Context(), access.Options{IdleTimeout: 10 * minute}, time.Hour)
		m.terminal()
		m.at(start, 9*time.Minute+30*time.Second)
		m.sees(t, "before it is idle", "ends in 1m0s unless something is typed (role ops, idle_timeout)")
		m.leash.typed()
		m.at(start, 18*time.Minute)
		m.sees(t, "after a key")
		m.at(start, 18*time.Minute+30*time.Second)
		m.sees(t, "before it is idle again", "unless something is typed")
	})
}

func (m *measured) sees(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	if len(m.shown) != len(want) {
		t.Fatalf("%s: got %d lines, want %d", when, len(m.shown), len(want))
	}
	for _, part := range want {
		if line := <-m.shown; !strings.Contains(line, part) || !strings.HasPrefix(line, "\r\n") || !strings.HasSuffix(line, "\r\n") {
			t.Errorf("%s: got %q, want a line with %q", when, line, part)
		}
	}
}

// screen is a channel of which only stderr is used.
type screen struct {
	ssh.Channel
	lines chan string
}

func (s screen) Stderr() io.ReadWriter { return s }

func (s screen) Read([]byte) (int, error) { panic("nobody reads from a screen") }

func (s screen) Write(b []byte) (int, error) { s.lines <- string(b); return len(b), nil }
