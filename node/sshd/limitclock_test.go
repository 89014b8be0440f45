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
)

// limitedConnection is a connection without a network, of which watch runs.
type limitedConnection struct {
	*connection
	trust atomic.Pointer[rules.Trust]
	ended chan *endReason // what watch returned
	lines chan string     // lines on the one terminal
}

// newLimitedConnection makes a connection in a synctest bubble. Its user has the role ops with these options.
func newLimitedConnection(ctx context.Context, o access.Options, life time.Duration) *limitedConnection {
	limited := &limitedConnection{ended: make(chan *endReason, 1), lines: make(chan string, 100)}
	limited.allow(access.Role{Name: "ops", Options: o})
	srv := New(Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Rules: limited})
	who := identity.SSHUser{
		Identity: identity.Identity{
			Kind:      identity.User,
			Profile:   identity.UserProfile,
			Name:      "alice",
			Connector: "corp",
			Subject:   "1",
			Roles:     []string{"ops"},
		},
	}
	who.Expires = time.Now().Add(life)
	limited.connection = &connection{
		srv:     srv,
		clock:   newLimitClock(),
		live:    map[*program]struct{}{},
		wakeups: make(chan struct{}, 1),
	}
	limited.shown.Store(&[]*credential{{who: who}})
	go func() { limited.ended <- limited.watch(ctx) }()
	return limited
}

// Current returns the rules in force.
func (l *limitedConnection) Current() *rules.Trust { return l.trust.Load() }

// Changed never says that they have changed.
func (l *limitedConnection) Changed() <-chan struct{} { return nil }

// allow puts roles in force.
func (l *limitedConnection) allow(roles ...access.Role) {
	p := access.Policy{Roles: map[string]access.Role{}}
	for _, r := range roles {
		p.Roles[r.Name] = r
	}
	l.trust.Store(&rules.Trust{Policy: p})
}

// addTerminal opens a session with a terminal on the connection.
func (l *limitedConnection) addTerminal() {
	t := newSessionChannel(l.connection, terminalChannel{lines: l.lines})
	t.messages.rawTerminal = true
	p := &program{conn: l.connection, messages: t.messages, hasTerminal: true}
	l.mu.Lock()
	l.sessions++
	l.live[p] = struct{}{}
	l.mu.Unlock()
	l.clock.terminals.Add(1)
}

// endedAt waits until d after the start. It returns why the connection has ended, or nil if it has not.
func (l *limitedConnection) endedAt(start time.Time, d time.Duration) *endReason {
	<-time.After(time.Until(start.Add(d)))
	synctest.Wait()
	select {
	case e := <-l.ended:
		return e
	default:
		return nil
	}
}

const minute, hour = access.Duration(time.Minute), access.Duration(time.Hour)

// With each combination of limits the connection ends exactly at the first of them, with its cause and
// message.
func TestTheSoonestLimitEndsAConnection(t *testing.T) {
	t.Parallel()
	outlives := access.Set(false) // of end_with_certificate, which is on by default
	idle := access.Options{IdleTimeout: access.Set(10 * minute)}
	longest := access.Options{
		MaxSession: access.Set(2 * hour), IdleTimeout: access.Set(3 * hour), EndWithCertificate: outlives,
	}
	mayExpire := access.Options{MaxSession: access.Set(2 * hour), EndWithCertificate: outlives}
	certificate := access.Options{EndWithCertificate: access.Set(true), MaxSession: access.Set(2 * hour)}
	for _, tt := range []struct {
		name    string
		options access.Options
		life    time.Duration // of the certificate
		ends    time.Duration // zero: never
		cause   string
		text    string // part of the message
	}{
		{name: "no limit", options: access.Options{EndWithCertificate: outlives}, life: time.Minute},
		{"the certificate by default", access.Options{}, time.Hour, time.Hour, "end_with_certificate",
			"ended with its certificate (the default of end_with_certificate)"},
		{"nothing typed", idle, time.Hour, 10 * time.Minute, "idle_timeout",
			"nothing was typed for 10m (role ops, idle_timeout)"},
		{"the longest session", longest, time.Hour, 2 * time.Hour, "max_session",
			"it may last 2h (role ops, max_session)"},
		{"the certificate", certificate, time.Hour, time.Hour, "end_with_certificate",
			"ended with its certificate (role ops, end_with_certificate)"},
		{"a certificate that may expire", mayExpire, time.Hour, 2 * time.Hour, "max_session", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				limited := newLimitedConnection(t.Context(), tt.options, tt.life)
				if tt.ends == 0 {
					if e := limited.endedAt(start, 48*time.Hour); e != nil {
						t.Errorf("got ended by %s, want it to go on", e.cause)
					}
					return
				}
				if e := limited.endedAt(start, tt.ends-time.Millisecond); e != nil {
					t.Fatalf("got ended by %s before %s", e.cause, tt.ends)
				}
				e := limited.endedAt(start, tt.ends)
				if e == nil || e.cause != tt.cause || !strings.Contains(fault.Message(e), tt.text) ||
					fault.Remedy(e) == "" {
					t.Errorf("got %v, want ended by %s, with %q and a remedy", e, tt.cause, tt.text)
				}
			})
		})
	}
}

// Activity every nine minutes keeps a connection with an idle timeout of ten minutes open.
func TestTypingPostponesTheIdleTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		limited := newLimitedConnection(
			t.Context(),
			access.Options{IdleTimeout: access.Set(10 * minute), MaxSession: access.Set(hour)},
			time.Hour,
		)
		for d := time.Duration(0); d < 50*time.Minute; d += 9 * time.Minute {
			if e := limited.endedAt(start, d); e != nil {
				t.Fatalf("after %s: got ended by %s", d, e.cause)
			}
			limited.clock.markActive()
		}
		if e := limited.endedAt(start, 55*time.Minute-time.Second); e != nil {
			t.Fatalf("got ended by %s, want 10m after the last activity", e.cause)
		}
		if e := limited.endedAt(start, 55*time.Minute); e == nil || e.cause != "idle_timeout" {
			t.Errorf("got %v, want ended by idle_timeout", e)
		}
	})
}

// Data is forwarded after five minutes: this postpones an idle timeout of ten minutes only without a
// terminal.
func TestForwardedDataCountsAsActivityOnlyWithoutATerminal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		terminals int32
		ends      time.Duration
	}{{"alone", 0, 15 * time.Minute}, {"beside a terminal", 1, 10 * time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			options := access.Options{IdleTimeout: access.Set(10 * minute)}
			limited := newLimitedConnection(t.Context(), options, time.Hour)
			limited.clock.terminals.Store(tt.terminals)
			limited.endedAt(start, 5*time.Minute)
			limited.clock.markForwarded()
			if e := limited.endedAt(start, tt.ends-time.Second); e != nil {
				t.Fatalf("%s: got ended early", tt.name)
			}
			if e := limited.endedAt(start, tt.ends); e == nil {
				t.Errorf("%s: got no end after %s", tt.name, tt.ends)
			}
		})
	}
}

// A limit that is added to a role applies within limitsInterval, and one that is removed does not apply any
// more.
func TestAChangedRoleAppliesToOpenConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		limited := newLimitedConnection(t.Context(), access.Options{}, time.Hour)
		if e := limited.endedAt(start, 20*time.Minute+time.Second); e != nil {
			t.Fatalf("got ended by %s without a limit", e.cause)
		}
		limited.allow(access.Role{Name: "ops", Options: access.Options{MaxSession: access.Set(10 * minute)}})
		if e := limited.endedAt(start, 20*time.Minute+time.Second+limitsInterval); e == nil ||
			e.cause != "max_session" {
			t.Errorf("got %v, want ended by max_session within %s", e, limitsInterval)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		options := access.Options{MaxSession: access.Set(10 * minute)}
		limited := newLimitedConnection(t.Context(), options, time.Hour)
		limited.endedAt(start, 9*time.Minute)
		limited.allow()
		if e := limited.endedAt(start, 20*time.Minute); e != nil {
			t.Errorf("got ended by %s, want the limit gone with the role", e.cause)
		}
	})
}

// Terminals are warned fifteen, five and one minutes before an end, each time once, and not so early of a
// short limit. Of an idle timeout they are warned one minute before it, and again after new activity.
func TestTerminalsAreWarnedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		options access.Options
		until   time.Duration
		want    []string
	}{
		{
			"the longest session",
			access.Options{MaxSession: access.Set(10 * minute)},
			10 * time.Minute,
			[]string{"ends in 5m (role ops, max_session)", "ends in 1m (role ops, max_session)"},
		},
		{
			"the certificate",
			access.Options{EndWithCertificate: access.Set(true)},
			time.Hour,
			[]string{
				"ends in 15m with its certificate (role ops, end_with_certificate): log in again, and connect again",
				"ends in 5m with its certificate (role ops, end_with_certificate)",
				"ends in 1m with its certificate (role ops, end_with_certificate)",
			},
		},
		{"a short limit", access.Options{MaxSession: access.Set(minute)}, time.Minute, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			limited := newLimitedConnection(t.Context(), tt.options, time.Hour)
			limited.addTerminal()
			if e := limited.endedAt(time.Now(), tt.until); e == nil {
				t.Fatalf("%s: got no end", tt.name)
			}
			limited.wantLines(t, tt.name, tt.want...)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		options := access.Options{IdleTimeout: access.Set(10 * minute)}
		limited := newLimitedConnection(t.Context(), options, time.Hour)
		limited.addTerminal()
		limited.endedAt(start, 9*time.Minute+30*time.Second)
		const warning = "ends in 1m unless something is typed (role ops, idle_timeout)"
		limited.wantLines(t, "before it is idle", warning)
		limited.clock.markActive()
		limited.endedAt(start, 18*time.Minute)
		limited.wantLines(t, "after activity")
		limited.endedAt(start, 18*time.Minute+30*time.Second)
		limited.wantLines(t, "before it is idle again", "unless something is typed")
	})
}

// wantLines checks that the terminal got these lines, and no others, since the last call.
func (l *limitedConnection) wantLines(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	if len(l.lines) != len(want) {
		t.Fatalf("%s: got %d lines, want %d", when, len(l.lines), len(want))
	}
	for _, part := range want {
		if line := <-l.lines; !strings.Contains(line, part) || !strings.HasPrefix(line, "\r\n") ||
			!strings.HasSuffix(line, "\r\n") {
			t.Errorf("%s: got %q, want a line with %q", when, line, part)
		}
	}
}

// terminalChannel is a channel of which only stderr is used.
type terminalChannel struct {
	ssh.Channel
	lines chan string
}

func (s terminalChannel) Stderr() io.ReadWriter { return s }

func (s terminalChannel) Read([]byte) (int, error) { panic("nothing reads from the terminal channel") }

func (s terminalChannel) Write(b []byte) (int, error) { s.lines <- string(b); return len(b), nil }
