package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// The log has the level and format of its configuration. A flag takes precedence over the file.
func TestLevelsAndFormats(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := daemon.Log{Level: "warn", Format: "json"}.Logger(&out)
	log.Info("not this")
	log.Warn("this", "n", 1)
	var line struct {
		Msg string
		N   int
	}
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil || line.Msg != "this" || line.N != 1 {
		t.Errorf("got %q, %v, want one record", out.String(), err)
	}
	out.Reset()
	log = daemon.Log{}.WithDefaults(daemon.Log{Level: "debug"}).Logger(&out)
	log.Debug("quiet words")
	if !strings.Contains(out.String(), `level=DEBUG msg="quiet words"`) {
		t.Errorf("got %q, want text at the level of the file", out.String())
	}
	if got := (daemon.Log{Level: "error"}).WithDefaults(daemon.Log{Level: "debug",
		Format: "json"}); got.Level != "error" ||
		got.Format != "json" {
		t.Errorf("got %+v, want the flag's level and the file's format", got)
	}
}

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	for _, l := range []daemon.Log{{Level: "loud"}, {Format: "xml"}, {Level: "INFO"}} {
		if err := l.Validate(); !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%+v: got %v, want it refused with a remedy", l, err)
		}
	}
	if err := (daemon.Log{Level: "info", Format: "text"}).Validate(); err != nil {
		t.Errorf("got %v for what is good", err)
	}
}

func TestTheFinalFaultIsReportedInTheLogFormat(t *testing.T) {
	t.Parallel()
	err := faulttest.New(fault.Invalid, "x", "it broke", "mend it")
	var text, machine strings.Builder
	daemon.Log{}.Report(&text, "threshold", err)
	daemon.Log{Format: "json"}.Report(&machine, "threshold", err)
	if text.String() != "threshold: error: it broke\nthreshold: hint: mend it\n" {
		t.Errorf("got %q in the text format", text.String())
	}
	var rec map[string]string
	if err := json.Unmarshal([]byte(machine.String()), &rec); err != nil || rec["msg"] != "it broke" ||
		rec["remedy"] != "mend it" {
		t.Errorf("got %q, %v, want a record with its remedy", machine.String(), err)
	}
}

// An address that other machines could reach is refused, as is one without a port or with a name.
func TestHealthListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:3080", ":3080", "[::]:3080", "192.0.2.1:3080", "localhost:3080",
		"127.0.0.1", "example.com:80", "[::ffff:192.0.2.1]:1"} {
		if l, err := daemon.ListenHealth(addr); err == nil {
			l.Close()
			t.Errorf("%s: got a listener, want it refused", addr)
		} else if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an invalid fault with a remedy", addr, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:3080", "127.8.9.1:1", "[::1]:3080", "[::ffff:127.0.0.1]:1"} {
		if err := daemon.CheckHealthAddr(addr); err != nil {
			t.Errorf("%s: got %v, want it taken", addr, err)
		}
	}
	if l, err := daemon.ListenHealth(""); l != nil || err != nil {
		t.Errorf("got %v, %v without an address, want nothing", l, err)
	}
}

// /readyz has status 200 only if all parts are added and work and the program is not stopping; /healthz
// always.
func TestReadyMeansEveryPartWorks(t *testing.T) {
	t.Parallel()
	var health daemon.Health
	listener := testnet.Listen("127.0.0.1:3080")
	client := &http.Client{Transport: &http.Transport{DialContext: listener.DialContext}}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- health.Serve(ctx, listener, quiet) }()
	var broken error
	health.Add("auth", func(context.Context) error { return nil })
	health.Add("proxy", func(context.Context) error { return broken })
	breakProxy := func() { broken = faulttest.New(fault.Unavailable, "x", "auth cannot be reached", "y") }

	for _, tt := range []struct {
		name string
		do   func()
		code int
		says string
	}{
		{"before all parts are added", func() {}, 503, `"ready":false`},
		{"once they are", health.Started, 200,
			`{"ready":true,"stopping":false,"parts":[{"name":"auth","ready":true},{"name":"proxy","ready":true}]}`},
		{"when a part cannot work", breakProxy, 503,
			`{"name":"proxy","ready":false,"reason":"auth cannot be reached"}`},
		{"when it works again", func() { broken = nil }, 200, `"ready":true`},
		{"while the program stops", health.Stopping, 503, `"stopping":true`},
	} {
		tt.do()
		code, body := get(t, client, "/readyz")
		if code != tt.code || !strings.Contains(body, tt.says) {
			t.Errorf("%s: got %d %s, want %d and %s", tt.name, code, body, tt.code, tt.says)
		}
		if code, body := get(t, client, "/healthz"); code != 200 || !json.Valid([]byte(body)) {
			t.Errorf("%s: got %d %s from /healthz, want 200", tt.name, code, body)
		}
	}
	if code, _ := get(t, client, "/"); code != 404 {
		t.Errorf("got %d for another page, want 404", code)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("got %v at the end", err)
	}
}

func get(t *testing.T, client *http.Client, path string) (int, string) {
	t.Helper()
	resp, err := client.Get("http://127.0.0.1:3080" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func notifySocket(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func readNotification(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestTheServiceManagerIsNotified(t *testing.T) {
	c := notifySocket(t)
	m := daemon.NewServiceManager(quiet)
	m.Ready("two\nWATCHDOG=1 lines")
	if got, want := readNotification(t, c), "READY=1\nSTATUS=two WATCHDOG=1 lines"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	m.Stopping(30 * time.Second)
	if got := readNotification(t, c); !strings.HasPrefix(got, "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\n") {
		t.Errorf("got %q, want the stop and how long it may take", got)
	}
}

func TestAMissingServiceManagerIsAWarning(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	var out strings.Builder
	daemon.NewServiceManager(daemon.Log{}.Logger(&out)).Ready("x")
	if !strings.Contains(out.String(), "cannot be notified") {
		t.Errorf("got %q, want a warning", out.String())
	}
}

// The watchdog is fed while parts answer, even with an error or late. It is not fed while a part hangs.
func TestTheWatchdogIsFedWhilePartsAnswer(t *testing.T) {
	c := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	var health daemon.Health
	hang, hung := make(chan struct{}), make(chan struct{})
	checks := 0
	health.Add("part", func(ctx context.Context) error {
		switch checks++; checks {
		case 1:
			return errors.New("not ready, but alive")
		case 2:
			<-ctx.Done() // slow, but alive
			return ctx.Err()
		case 3:
			<-ctx.Done()
			close(hung) // and ignores the deadline
			<-hang
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	m := daemon.NewServiceManager(quiet)
	go func() { ended <- m.FeedWatchdog(ctx, &health) }()
	for range 2 {
		if got := readNotification(t, c); got != "WATCHDOG=1" {
			t.Errorf("got %q, want the watchdog fed", got)
		}
	}
	<-hung
	m.Ready("marker") // notifications arrive in order, so the marker comes next if the watchdog was not fed
	if got, want := readNotification(t, c), "READY=1\nSTATUS=marker"; got != want {
		t.Errorf("got %q while a check hangs, want no more than %q", got, want)
	}
	cancel()
	close(hang)
	if err := <-ended; err != nil {
		t.Errorf("got %v", err)
	}
}
