//go:build integration

package integration

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// sessionFixture is a node with accounts of its own, and a person with stock OpenSSH who may be all of them.
type sessionFixture struct {
	*harness.AccountFixture
	t    testing.TB
	c    *harness.Client
	node *harness.Node
	cfg  string
}

// newSessionFixture makes accounts by fill, and gives alice every login named and root.
func newSessionFixture(t testing.TB, fill func(*harness.AccountFixture), logins ...string) *sessionFixture {
	t.Helper()
	h := &sessionFixture{AccountFixture: harness.NewAccountFixture(t), t: t}
	fill(h.AccountFixture)
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	h.c = harness.NewClient(t)
	alice := h.c.FirstLogin(s, harness.Alice())
	role := "kind: role\nversion: v1\nmetadata: {name: operator}\nspec:\n  allow:\n    - nodes: {\"*\": \"*\"}\n      logins: [root, " + strings.Join(
		logins,
		", ",
	) + "]\n      actions: [shell, exec, sftp]\n"
	h.c.Tsh("apply", "-f", harness.WriteFile(t, t.TempDir(), "role.yaml", role)).OK(t)
	h.node = harness.StartNode(t, proxy, h.c.Token("node"), "house", h.CommandPrefix()...)
	h.c.LoginAt(proxy, s, alice) // for a certificate with the new logins
	h.cfg = harness.WriteFile(t, h.c.Home, "ssh_config", h.c.Tsh("config").OK(t))
	return h
}

// target is how stock clients name an account there.
func (h *sessionFixture) target(login string) string {
	return login + "@house." + harness.ClusterName
}

func (h *sessionFixture) ssh(login string, args ...string) harness.Result {
	h.t.Helper()
	return h.run("", "ssh", append([]string{h.target(login)}, args...)...)
}

// run runs one of OpenSSH's programs with the person's configuration.
func (h *sessionFixture) run(stdin, program string, args ...string) harness.Result {
	h.t.Helper()
	return harness.Run(
		h.t,
		h.c.Env,
		strings.NewReader(stdin),
		program,
		append([]string{"-F", h.cfg, "-o", "BatchMode=yes"}, args...)...)
}

// typeInShell runs a login shell on a terminal and types into it.
func (h *sessionFixture) typeInShell(login, text string) string {
	h.t.Helper()
	return h.run(text, "ssh", "-tt", h.target(login)).Stdout
}

func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("got %q, want %q in it", got, w)
		}
	}
}

// A session is the account's own, as people know it from sshd.
func TestASessionRunsAsTheAccountDoesLocally(t *testing.T) {
	h := newSessionFixture(t, func(h *harness.AccountFixture) {
		h.AddGroup("wheelers")
		h.AddGroup("painters")
		h.Add("lena", "--groups", "wheelers,painters", "--uid", "23456")
		h.Add("closed", "--shell", "/usr/sbin/nologin")
		h.Add("nothing", "--shell", "/bin/false")
		h.Add("over", "--expiredate", "2020-01-01")
		h.Put("etc/motd", "Message of the day.\n")
		h.Put("run/motd.dynamic", "")
		h.Put("etc/environment", "HOUSE_PAINT=\"pale blue\"\nLD_PRELOAD=/nowhere.so\n")
		h.Put("etc/default/locale", "LANG=C.UTF-8\n")
		h.Put("etc/security/limits.d/house.conf", "@painters - nofile 321\nlena hard nproc 4321\n")
	}, "lena", "closed", "nothing", "over")

	t.Run("its ids, home, shell, limits and environment", func(t *testing.T) {
		got := h.ssh(
			"lena",
			`id; pwd; ulimit -n; ulimit -Hu; umask; echo "$0 $HOME $SHELL $USER $LOGNAME $MAIL $PATH"; echo "$LANG, $HOUSE_PAINT"; echo "($SSH_CONNECTION) ($SSH_CLIENT) ($SSH_TTY)"; env | grep -c ^LD_`,
		).Stdout
		contains(
			t,
			got,
			"uid=23456(lena) gid=23456(lena) groups=23456(lena),",
			"(wheelers)",
			"(painters)",
			"\n/home/lena\n321\n4321\n0022\n",
			"bash /home/lena /bin/bash lena lena /var/mail/lena /usr/local/bin:/usr/bin:/bin",
			"C.UTF-8, pale blue",
			"\n0\n",
		)
		if !regexp.MustCompile(`\(127\.0\.0\.1 \d+ 127\.0\.0\.1 \d+\) \(127\.0\.0\.1 \d+ \d+\) \(\)`).
			MatchString(got) {
			t.Errorf("got %q, want the connection's ends and no terminal", got)
		}
	})
	t.Run("a login shell with a terminal is greeted and shown by who", func(t *testing.T) {
		first := h.typeInShell("lena", "echo shell=$0 tty=$SSH_TTY; who; logout\n")
		contains(t, first, "Message of the day.\r\n", "shell=-bash")
		tty := regexp.MustCompile(`tty=/dev/(pts/\d+)`).FindStringSubmatch(first)
		if tty == nil || !regexp.MustCompile(`lena +`+tty[1]+` .*\(127\.0\.0\.1\)`).MatchString(first) ||
			strings.Contains(first, "Last login:") {
			t.Errorf("got %q, want who to show the session, and no login before", first)
		}
		contains(
			t,
			h.typeInShell("lena", "logout\n"),
			"Message of the day.\r\nLast login: ",
			" from 127.0.0.1\r\n",
		)
		got, want := "", regexp.MustCompile(`^(lena +pts/\d+ +127\.0\.0\.1 .* - \d\d:\d\d +\(00:0\d\)\n){2}`)
		for late := time.Now().Add(harness.Timeout); !want.MatchString(got) && time.Now().Before(late); { // last takes an end in its own second for none
			got = h.ssh("lena", "who; last | head -2").Stdout
		}
		if !want.MatchString(got) {
			t.Errorf("got %q, want nobody there, and both logins with their ends", got)
		}
		contains(t, h.ssh("root", "lastlog -u lena").Stdout, "lena", "pts/", "127.0.0.1")
		contains(t, h.ssh("lena", "-tt", "ls -l $(tty)").Stdout, "crw--w---- 1 lena tty ")
	})
	t.Run("a command is not greeted, nor is one who does not want it", func(t *testing.T) {
		h.ssh("lena", "touch .hushlogin")
		for what, got := range map[string]string{"a command": h.ssh("lena", "-tt", "true").Stdout, "no terminal": h.run("true\n", "ssh", "-T", h.target("root")).Stdout,
			"a hushed login": h.typeInShell("lena", "logout\n")} {
			if strings.Contains(got, "Message of the day") || strings.Contains(got, "Last login") {
				t.Errorf("%s: got %q, want no greeting", what, got)
			}
		}
	})
	t.Run("shells that let nobody in", func(t *testing.T) {
		if r := h.ssh("closed"); r.Code != 1 ||
			!strings.Contains(r.Stdout, "This account is currently not available.") {
			t.Errorf("got %+v, want nologin's own words", r)
		}
		if r := h.ssh("nothing", "echo in"); r.Code != 1 || r.Stdout != "" {
			t.Errorf("got %+v, want nothing", r)
		}
		if r := h.run("ls\n", "sftp", "-b", "-", h.target("closed")); r.Code == 0 ||
			!strings.Contains(r.Stderr, "/usr/sbin/nologin") {
			t.Errorf("got %+v, want files refused too, with the shell named", r)
		}
	})
	t.Run("an account that has expired", func(t *testing.T) {
		if r := h.ssh("over", "true"); r.Code != 255 ||
			!strings.Contains(r.Stderr, "the account over of this node has expired") {
			t.Errorf("got %+v, want a refusal that says so", r)
		}
	})
	t.Run("a machine that is closed", func(t *testing.T) {
		h.Put("etc/nologin", "Back at noon.\n")
		defer h.Remove("etc/nologin")
		if r := h.ssh("lena", "true"); r.Code != 255 ||
			!strings.Contains(r.Stderr, "only root in at the moment: Back at noon.") {
			t.Errorf("got %+v, want a refusal with the machine's words", r)
		}
		if r := h.ssh("root", "echo in"); r.Stdout != "in\n" {
			t.Errorf("got %+v, want root let in", r)
		}
	})
	t.Run("another umask", func(t *testing.T) {
		h.Put("etc/login.defs", "UMASK 027\n")
		if r := h.ssh("lena", "umask; touch new; stat -c %a new"); r.Stdout != "0027\n640\n" {
			t.Errorf("got %+v, want the machine's umask", r)
		}
	})
	t.Run("what detaches itself outlives the session", func(t *testing.T) {
		r := h.ssh("lena", "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!")
		pid, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
		if err != nil {
			t.Fatalf("got %+v, want a process's number at once", r)
		}
		if r := h.ssh("lena", fmt.Sprintf("kill %d && echo ended", pid)); r.Stdout != "ended\n" {
			t.Errorf("got %+v, want it to live on", r)
		}
	})
	t.Run("twenty sessions on one connection", func(t *testing.T) {
		mux := []string{
			"-o",
			"ControlMaster=auto",
			"-o",
			"ControlPath=" + filepath.Join(h.c.Home, "mux"),
			"-o",
			"ControlPersist=60",
		}
		h.ssh("lena", append(mux, "true")...).OK(t)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if r := h.ssh("lena", append(mux, fmt.Sprintf("cat; echo e%d >&2; exit %d", i, i))...); r.Code != i ||
					!strings.Contains(r.Stderr, fmt.Sprintf("e%d", i)) {
					t.Errorf("got %+v, want status %d", r, i)
				}
			})
		}
		all.Wait()
		h.ssh("lena", append(mux, "-O", "exit")...)
	})
}

// zeroes is an endless stream of them.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// What flows through a session is never held by the node.
func TestAGigabyteThroughASessionLeavesTheNodeSmall(t *testing.T) {
	h := newSessionFixture(t, func(h *harness.AccountFixture) { h.Add("lena") }, "lena")
	const size, most = 1 << 30, 25 << 10 // bytes, and kB of memory
	r := harness.Run(
		t,
		h.c.Env,
		io.LimitReader(zeroes{}, size),
		"ssh",
		"-F",
		h.cfg,
		"-o",
		"BatchMode=yes",
		h.target("lena"),
		"wc -c; head -c 1000 /dev/zero; echo apart >&2",
	)
	if want := fmt.Sprintf("%d\n", size) + strings.Repeat("\x00", 1000); r.Stdout != want ||
		!strings.Contains(r.Stderr, "apart") {
		t.Errorf(
			"got %d bytes that begin with %.20q, want the count of %d and 1000 zeroes",
			len(r.Stdout),
			r.Stdout,
			size,
		)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.node.Process.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatalf("got %s, want VmHWM", status)
	}
	if kb, _ := strconv.Atoi(string(peak[1])); kb > most {
		t.Errorf("got a peak of %d kB, want at most %d", kb, most)
	} else {
		t.Logf("the node's peak: %d kB", kb)
	}
}
