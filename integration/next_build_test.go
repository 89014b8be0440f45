//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// twoBuilds is a cluster of this build, with a node of this build and one of the next, and a user with a tsh
// of each.
type twoBuilds struct {
	t        *testing.T
	proxy    string
	server   *harness.Server
	alice    harness.User
	now      *harness.Client // this build's tsh
	next     *harness.Client
	nodes    [2]*harness.Node
	nextNode string // path of the next build's agent
}

func newTwoBuilds(t *testing.T) *twoBuilds {
	t.Helper()
	b := &twoBuilds{
		t:        t,
		proxy:    harness.FreeAddr(t, "127.0.0.1"),
		nextNode: harness.NextBin(t, "threshold-node"),
	}
	b.server = harness.StartServer(t, b.proxy, harness.StartProvider(t, "127.0.0.1", b.proxy), "")
	b.now, b.next = harness.NewClient(t), harness.NewClient(t)
	b.alice = b.now.FirstLogin(b.server, harness.Alice())
	b.next.Use(harness.NextBin(t, "tsh"))
	b.next.LoginAt(b.proxy, b.server, b.alice)
	b.nodes[0] = harness.StartNode(t, b.proxy, b.now.Token("node"), "now")
	b.nodes[1] = harness.StartNodeAs(t, b.nextNode, nil, b.proxy, b.next.Token("node"), "next")
	b.nodes[1].Process.WaitFor("tunnel connected")
	return b
}

// wantAllWork fails unless both users reach both nodes, and the events of the sessions reach auth.
func (b *twoBuilds) wantAllWork(when string) {
	b.t.Helper()
	for _, client := range []*harness.Client{b.now, b.next} {
		for _, node := range []string{"now", "next"} {
			harness.Eventually(b.t, when+": a session on "+node+" by "+client.Path(), func() bool {
				return strings.TrimSpace(client.Tsh("ssh", node, "echo works").Stdout) == "works"
			})
		}
	}
	for _, node := range []string{"now", "next"} {
		started := fmt.Sprintf(`"name": %q`, node)
		harness.Eventually(b.t, when+": the events of "+node, func() bool {
			return strings.Contains(b.now.Tsh("get", "events", "--format=json").Stdout, started)
		})
	}
}

// The next build has one field more in everything that it stores and sends. It works together with this build
// in all roles, on the same data, there and back.
func TestTheNextBuildAndThisOneWorkTogether(t *testing.T) {
	t.Parallel()
	b := newTwoBuilds(t)
	b.wantAllWork("a server of this build")

	b.server.RestartAs(t, harness.NextBin(t, "threshold"))
	b.wantAllWork("a server of the next build, on the data of this one")
	b.now.LoginAt(b.proxy, b.server, b.alice)
	role := harness.WriteFile(t, t.TempDir(), "role.yaml", emptyRole("made-by-next"))
	b.now.Tsh("apply", "-f", role).OK(t)
	b.wantAllWork("with certificates and rules of the next build")
	harness.StartNode(t, b.proxy, b.now.Token("node"), "later") // this build joins the next

	b.server.RestartAs(t, harness.Bin(t, "threshold"))
	b.wantAllWork("a server of this build, on the data of the next")
	if out := b.now.Tsh("get", "roles").OK(t); !strings.Contains(out, "made-by-next") {
		t.Errorf("got roles\n%s\nwant the one that the next build stored", out)
	}

	// One home of tsh, used by both builds in turn.
	shared := harness.NewClient(t)
	shared.Use(harness.NextBin(t, "tsh"))
	shared.FirstLogin(b.server, harness.Bob())
	shared.Use(harness.Bin(t, "tsh"))
	if out := shared.Tsh("status").OK(t); !strings.Contains(out, harness.Bob().Email) {
		t.Errorf("got %q with a profile of the next build, want bob", out)
	}
	shared.Tsh("ls").OK(t)
	// One data folder of an agent, used by both builds in turn.
	if err := b.nodes[1].Process.Stop(); err != nil {
		t.Fatal(err)
	}
	again := harness.Start(t, nil, harness.Bin(t, "threshold-node"), "--proxy", b.proxy, "--name", "next",
		"--data", b.nodes[1].Dir)
	again.WaitFor("tunnel connected")
}

// critical is the environment in which the next build calls the new field of a format critical.
func critical(format string) string { return harness.NextCritical + "=" + format }

// startCritical starts a node of the next build that calls the new field of a format critical.
func (b *twoBuilds) startCritical(format, name string) *harness.Node {
	b.t.Helper()
	token := b.now.Token("node")
	return harness.StartNodeAs(b.t, b.nextNode, []string{critical(format)}, b.proxy, token, name)
}

// updateAdvice is what a program says that cannot use what a newer one wrote: which field, and what to do.
var updateAdvice = []string{"next_field", "update this program"}

// The next build calls its new field critical in one format at a time. Whoever of this build reads that
// format refuses it, and says why and what to do. Everything else goes on.
func TestCriticalFieldsOfTheNextBuildAreRefused(t *testing.T) {
	t.Parallel()
	b := newTwoBuilds(t)
	nextServer := harness.NextBin(t, "threshold")

	t.Run("a dial request of tsh", func(t *testing.T) {
		b.next.Use(harness.NextBin(t, "tsh"), critical("dial"))
		refused := b.next.Tsh("ssh", "now", "true")
		if refused.Code == 0 {
			t.Error("got a session by a request with an unknown critical field")
		}
		contains(t, refused.Stderr, "next_field", "update the proxy")
		b.next.Use(harness.NextBin(t, "tsh"), critical(""))
		b.next.Tsh("ssh", "now", "true").OK(t)
	})
	t.Run("a profile", func(t *testing.T) {
		c := harness.NewClient(t)
		c.Use(harness.NextBin(t, "tsh"), critical("profile"))
		c.FirstLogin(b.server, harness.Bob())
		c.Use(harness.Bin(t, "tsh"))
		contains(t, c.Tsh("ssh", "now", "true").Stderr, updateAdvice...)
	})
	t.Run("the locks of machines in a profile", func(t *testing.T) {
		c := harness.NewClient(t)
		c.Use(harness.NextBin(t, "tsh"), critical("machine-locks"))
		c.LoginAt(b.proxy, b.server, b.alice)
		c.Use(harness.Bin(t, "tsh"))
		r := c.Tsh("ssh", "now", "true")
		r.OK(t) // the proxy brings the locks again
		contains(t, r.Stderr, "the locks of machines in the profile cannot be used", "next_field")
	})
	t.Run("the greeting of a node", func(t *testing.T) {
		n := b.startCritical("tunnel", "eager")
		n.Process.WaitFor("next_field")
		b.now.Tsh("ssh", "now", "true").OK(t)
	})
	t.Run("an event of a node", func(t *testing.T) {
		n := b.startCritical("event", "teller")
		n.Process.WaitFor("tunnel connected")
		b.now.Tsh("ssh", "teller", "true").OK(t)
		n.Process.WaitFor("next_field")
		b.wantAllWork("beside events that auth cannot use")
	})
	t.Run("a membership", func(t *testing.T) {
		n := b.startCritical("membership", "ahead")
		n.Process.WaitFor("tunnel connected")
		if err := n.Process.Stop(); err != nil {
			t.Fatal(err)
		}
		r := harness.Run(t, nil, nil, harness.Bin(t, "threshold-node"), "--proxy", b.proxy, "--data", n.Dir,
			"--name", "ahead")
		contains(t, r.Stderr, updateAdvice...)
	})
	t.Run("the rules", func(t *testing.T) {
		b.server.RestartAs(t, nextServer, critical("signed"))
		b.nodes[0].Process.WaitFor("next_field")
		// By the rules that it has: those that it cannot use are no reason to forget them.
		harness.Eventually(t, "a session by the rules from before", func() bool {
			return b.now.Tsh("ssh", "now", "true").Code == 0
		})
	})
	t.Run("the greeting of a proxy", func(t *testing.T) {
		b.server.RestartAs(t, nextServer, critical("tunnel"))
		b.nodes[0].Process.WaitFor("next_field")
		harness.Eventually(t, "a session on a node of the next build", func() bool {
			return b.now.Tsh("ssh", "next", "true").Code == 0
		})
	})
	t.Run("the reply to a dial request", func(t *testing.T) {
		b.server.RestartAs(t, nextServer, critical("dial"))
		harness.Eventually(t, "the refusal", func() bool {
			return strings.Contains(b.now.Tsh("ssh", "now", "true").Stderr, "next_field")
		})
		contains(t, b.now.Tsh("ssh", "now", "true").Stderr, updateAdvice...)
	})
	t.Run("an identity", func(t *testing.T) {
		b.server.RestartAs(t, nextServer, critical("identity"))
		c := harness.NewClient(t)
		login := c.Tsh("login", "--browser=none", "--proxy", b.proxy, "--ca-file", b.server.CAFile)
		if login.Code == 0 {
			t.Error("got a login at servers whose certificates have an unknown critical field")
		}
		contains(t, login.Stderr, updateAdvice...)
		harness.Eventually(t, "a session with the certificate from before", func() bool {
			return b.now.Tsh("ssh", "now", "true").Code == 0
		})
	})
	t.Run("a record of the store", func(t *testing.T) {
		b.server.RestartAs(t, nextServer, critical("record"))
		role := harness.WriteFile(t, t.TempDir(), "role.yaml", emptyRole("strict"))
		harness.Eventually(t, "the role stored", func() bool {
			return b.now.Tsh("apply", "-f", role).Code == 0
		})
		if err := b.server.Process.Stop(); err != nil {
			t.Fatal(err)
		}
		config := filepath.Join(b.server.Dir, "threshold.yaml")
		r := harness.Run(t, nil, nil, harness.Bin(t, "threshold"), "start", "--config", config)
		contains(t, r.Stderr, "this release cannot read", "run the newest release")
		b.server.RestartAs(t, nextServer)
		b.now.Tsh("get", "roles", "strict").OK(t)
	})
}
