package tsh_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/tsh"
)

// client is the machine of a user: a home folder and an environment in which tsh runs.
type client struct {
	t    testing.TB
	tc   *testCluster
	home string
	env  map[string]string
	now  func() time.Time
}

// client returns a new machine, on which nobody has logged in.
func (tc *testCluster) client() *client {
	home := filepath.Join(tc.t.TempDir(), "tsh home")
	env := map[string]string{"TSH_HOME": home, "USER": "alice", "TERM": "xterm", "LANG": "ko_KR.UTF-8"}
	return &client{t: tc.t, tc: tc, home: home, env: env, now: time.Now}
}

// loggedIn returns a new machine on which alice has logged in.
func (tc *testCluster) loggedIn() *client {
	tc.t.Helper()
	c := tc.client()
	c.mustLogIn()
	tc.takeCalls()
	return c
}

// result is the result of a command.
type result struct {
	code        int
	out, stderr string
}

func (c *client) getenv(name string) string { return c.env[name] }

// environ returns the environment for a command.
func (c *client) environ(stdin io.Reader, stdout, stderr io.Writer, args []string) tsh.Env {
	return tsh.Env{
		Args:    args,
		Stdin:   stdin,
		Stdout:  stdout,
		Stderr:  stderr,
		Getenv:  c.getenv,
		Version: "test",
		Now:     c.now,
	}
}

// run runs a command with an empty standard input.
func (c *client) run(args ...string) result { return c.runWith(strings.NewReader(""), args...) }

func (c *client) runWith(in io.Reader, args ...string) result {
	c.t.Helper()
	var out, stderr bytes.Buffer
	code := tsh.Main(c.t.Context(), c.environ(in, &out, &stderr, args))
	return result{code, out.String(), stderr.String()}
}

// runPipe runs a command between the input and the output of another program, and returns its exit code.
func (c *client) runPipe(in io.Reader, out, stderr io.Writer, args ...string) int {
	return tsh.Main(c.t.Context(), c.environ(in, out, stderr, args))
}

// start runs a command in a goroutine. The channel gets its exit code.
func (c *client) start(stdout, stderr io.Writer, args ...string) <-chan int {
	codes := make(chan int, 1)
	env := c.environ(strings.NewReader(""), stdout, stderr, args)
	go func() { codes <- tsh.Main(c.t.Context(), env) }()
	return codes
}

// ok runs a command that must succeed and returns its standard output.
func (c *client) ok(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatalf("tsh %s: got %d, %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.out
}

// refused runs a command that must fail with an error and a hint that contain all the texts.
func (c *client) refused(code int, args []string, texts ...string) {
	c.t.Helper()
	c.wantRefusal(c.run(args...), strings.Join(args, " "), code, texts...)
}

func (c *client) wantRefusal(r result, name string, code int, texts ...string) {
	c.t.Helper()
	hasBoth := strings.Contains(r.stderr, "tsh: error: ") && strings.Contains(r.stderr, "\ntsh: hint: ")
	if r.code != code || !hasBoth {
		c.t.Errorf("%s: got %d %q, want %d, an error and a hint", name, r.code, r.stderr, code)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			c.t.Errorf("%s: got %q, want %q in it", name, r.stderr, text)
		}
	}
}

// mustLogIn logs in with the cluster's pin.
func (c *client) mustLogIn() {
	c.t.Helper()
	if r := c.login(c.browse, "--pin", c.tc.Pin().String()); r.code != 0 {
		c.t.Fatalf("login: got %d %s", r.code, r.stderr)
	}
}

// login runs tsh login. browse plays the browser; it gets the address that tsh prints.
func (c *client) login(browse func(page string), args ...string) result {
	c.t.Helper()
	return c.loginIn(c.t.Context(), browse, append([]string{"--browser=none"}, args...)...)
}

func (c *client) loginIn(ctx context.Context, browse func(page string), args ...string) result {
	c.t.Helper()
	return c.loginWithin(ctx, browse, append([]string{"--proxy", c.tc.addr}, args...)...)
}

// loginWith is login without --proxy.
func (c *client) loginWith(browse func(page string), args ...string) result {
	c.t.Helper()
	return c.loginWithin(c.t.Context(), browse, args...)
}

func (c *client) loginWithin(ctx context.Context, browse func(page string), args ...string) result {
	c.t.Helper()
	r, w := io.Pipe()
	var stderr bytes.Buffer
	args = append([]string{"login"}, args...)
	env := c.environ(strings.NewReader(""), w, &stderr, args)
	codes := make(chan int, 1)
	go func() {
		codes <- tsh.Main(ctx, env)
		_ = w.Close()
	}()
	var browsers sync.WaitGroup
	var out strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
		if page, ok := strings.CutPrefix(lines.Text(), "Open: "); ok {
			browsers.Go(func() { browse(page) })
		}
	}
	browsers.Wait()
	return result{<-codes, out.String(), stderr.String()}
}
