//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// sessionFixture is a node with accounts of its own, and a user with OpenSSH's client who may log in to them.
type sessionFixture struct {
	*harness.AccountFixture
	t    testing.TB
	c    *harness.Client
	node *harness.Node
	cfg  string // path of the configuration for OpenSSH
}

// newSessionFixture lets fill create the accounts of the node, and gives alice the logins and root.
func newSessionFixture(t testing.TB, fill func(*harness.AccountFixture), logins ...string) *sessionFixture {
	t.Helper()
	h := &sessionFixture{AccountFixture: harness.NewAccountFixture(t), t: t}
	fill(h.AccountFixture)
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	h.c = harness.NewClient(t)
	alice := h.c.FirstLogin(s, harness.Alice())
	role := operatorRole("root, "+strings.Join(logins, ", "), "shell, exec, sftp")
	h.c.Tsh("apply", "-f", harness.WriteFile(t, t.TempDir(), "role.yaml", role)).OK(t)
	h.node = harness.StartNode(t, proxy, h.c.Token("node"), "home", h.CommandPrefix()...)
	h.c.LoginAt(proxy, s, alice) // for a certificate with the new logins
	h.cfg = harness.WriteFile(t, h.c.Home, "ssh_config", h.c.Tsh("config").OK(t))
	return h
}

// target is the destination with which OpenSSH reaches an account of the node.
func (h *sessionFixture) target(login string) string {
	return login + "@home." + harness.ClusterName
}

func (h *sessionFixture) ssh(login string, args ...string) harness.Result {
	h.t.Helper()
	return h.run("", "ssh", append([]string{h.target(login)}, args...)...)
}

// run runs one of OpenSSH's programs with the user's configuration.
func (h *sessionFixture) run(stdin, program string, args ...string) harness.Result {
	h.t.Helper()
	args = append([]string{"-F", h.cfg, "-o", "BatchMode=yes"}, args...)
	return harness.Run(h.t, h.c.Env, strings.NewReader(stdin), program, args...)
}

// typeInShell runs a login shell on a terminal and types into it.
func (h *sessionFixture) typeInShell(login, text string) string {
	h.t.Helper()
	return h.run(text, "ssh", "-tt", h.target(login)).Stdout
}

// contains checks that got has every text of want.
func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("got %q, want %q in it", got, w)
		}
	}
}

// A session has the identity, limits, environment and login records of the account, as with OpenSSH's server.
func TestASessionRunsAsTheAccountDoesLocally(t *testing.T) {
	h := newSessionFixture(t, func(h *harness.AccountFixture) {
		h.AddGroup("wheelers")
		h.AddGroup("painters")
		h.Add("lena", "--groups", "wheelers,painters", "--uid", "23456")
		h.Add("closed", "--shell", "/usr/sbin/nologin")
		h.Add("nothing", "--shell", "/bin/false")
		h.Add("expired", "--expiredate", "2020-01-01")
		h.Put("etc/motd", "Message of the day.\n")
		h.Put("run/motd.dynamic", "")
		h.Put("etc/environment", "FAVOURITE=\"pale blue\"\nLD_PRELOAD=/missing.so\n")
		h.Put("etc/default/locale", "LANG=C.UTF-8\n")
		h.Put("etc/security/limits.d/test.conf", "@painters - nofile 321\nlena hard nproc 4321\n")
	}, "lena", "closed", "nothing", "expired")

	t.Run("its ids, home, shell, limits and environment", func(t *testing.T) {
		const script = `id; pwd; ulimit -n; ulimit -Hu; umask
echo "$0 $HOME $SHELL $USER $LOGNAME $MAIL $PATH"
echo "$LANG, $FAVOURITE"
echo "($SSH_CONNECTION) ($SSH_CLIENT) ($SSH_TTY)"
env | grep -c ^LD_`
		got := h.ssh("lena", script).Stdout
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
		const addresses = `\(127\.0\.0\.1 \d+ 127\.0\.0\.1 \d+\) \(127\.0\.0\.1 \d+ \d+\) \(\)`
		if !regexp.MustCompile(addresses).MatchString(got) {
			t.Errorf("got %q, want both addresses of the connection and no terminal", got)
		}
	})
	t.Run("a login shell gets the message of the day and is listed by who", func(t *testing.T) {
		first := h.typeInShell("lena", "echo shell=$0 tty=$SSH_TTY; who; logout\n")
		contains(t, first, "Message of the day.\r\n", "shell=-bash")
		tty := regexp.MustCompile(`tty=/dev/(pts/\d+)`).FindStringSubmatch(first)
		if tty == nil {
			t.Fatalf("got %q, want the name of the terminal", first)
		}
		listed := regexp.MustCompile(`lena +` + tty[1] + ` .*\(127\.0\.0\.1\)`)
		if !listed.MatchString(first) || strings.Contains(first, "Last login:") {
			t.Errorf("got %q, want who to list the session, and no earlier login", first)
		}
		second := h.typeInShell("lena", "logout\n")
		contains(t, second, "Message of the day.\r\nLast login: ", " from 127.0.0.1\r\n")
		// last shows a login whose end is in the current second as one that still lasts.
		want := regexp.MustCompile(`^(lena +pts/\d+ +127\.0\.0\.1 .* - \d\d:\d\d +\(00:0\d\)\n){2}`)
		harness.Eventually(t, "who lists nobody, and last lists both logins with their ends", func() bool {
			return want.MatchString(h.ssh("lena", "who; last | head -2").Stdout)
		})
		contains(t, h.ssh("root", "lastlog -u lena").Stdout, "lena", "pts/", "127.0.0.1")
		contains(t, h.ssh("lena", "-tt", "ls -l $(tty)").Stdout, "crw--w---- 1 lena tty ")
	})
	t.Run("a command and a login with .hushlogin get no message of the day", func(t *testing.T) {
		h.ssh("lena", "touch .hushlogin")
		for what, got := range map[string]string{
			"a command":                h.ssh("lena", "-tt", "true").Stdout,
			"a shell without terminal": h.run("true\n", "ssh", "-T", h.target("root")).Stdout,
			"a login with .hushlogin":  h.typeInShell("lena", "logout\n"),
		} {
			if strings.Contains(got, "Message of the day") || strings.Contains(got, "Last login") {
				t.Errorf("%s: got %q, want no message", what, got)
			}
		}
	})
	t.Run("nologin and false as shell let nobody in", func(t *testing.T) {
		r := h.ssh("closed")
		if r.Code != 1 || !strings.Contains(r.Stdout, "This account is currently not available.") {
			t.Errorf("got %+v, want the message of nologin", r)
		}
		if r := h.ssh("nothing", "echo in"); r.Code != 1 || r.Stdout != "" {
			t.Errorf("got %+v, want no output", r)
		}
		r = h.run("ls\n", "sftp", "-b", "-", h.target("closed"))
		if r.Code == 0 || !strings.Contains(r.Stderr, "/usr/sbin/nologin") {
			t.Errorf("got %+v, want sftp refused too, and the shell named", r)
		}
	})
	t.Run("an expired account is refused", func(t *testing.T) {
		r := h.ssh("expired", "true")
		if r.Code != 255 || !strings.Contains(r.Stderr, "the account expired of this node has expired") {
			t.Errorf("got %+v, want a refusal that says so", r)
		}
	})
	t.Run("with /etc/nologin only root may log in", func(t *testing.T) {
		h.Put("etc/nologin", "Back at noon.\n")
		defer h.Remove("etc/nologin")
		if r := h.ssh("lena", "true"); r.Code != 255 ||
			!strings.Contains(r.Stderr, "only root in at the moment: Back at noon.") {
			t.Errorf("got %+v, want a refusal with the text of /etc/nologin", r)
		}
		if r := h.ssh("root", "echo in"); r.Stdout != "in\n" {
			t.Errorf("got %+v, want root logged in", r)
		}
	})
	t.Run("the umask is that of login.defs", func(t *testing.T) {
		h.Put("etc/login.defs", "UMASK 027\n")
		if r := h.ssh("lena", "umask; touch new; stat -c %a new"); r.Stdout != "0027\n640\n" {
			t.Errorf("got %+v, want the umask of login.defs", r)
		}
	})
	t.Run("a process that detaches itself outlives the session", func(t *testing.T) {
		r := h.ssh("lena", "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!")
		pid, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
		if err != nil {
			t.Fatalf("got %+v, want a process id at once", r)
		}
		if r := h.ssh("lena", fmt.Sprintf("kill %d && echo ended", pid)); r.Stdout != "ended\n" {
			t.Errorf("got %+v, want the process still running", r)
		}
	})
	t.Run("twenty sessions on one connection", func(t *testing.T) {
		path := "ControlPath=" + filepath.Join(h.c.Home, "mux")
		mux := []string{"-o", "ControlMaster=auto", "-o", path, "-o", "ControlPersist=60"}
		h.ssh("lena", append(mux, "true")...).OK(t)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				script := fmt.Sprintf("cat; echo e%d >&2; exit %d", i, i)
				r := h.ssh("lena", append(slices.Clone(mux), script)...)
				if r.Code != i || !strings.Contains(r.Stderr, fmt.Sprintf("e%d", i)) {
					t.Errorf("got %+v, want status %d", r, i)
				}
			})
		}
		all.Wait()
		h.ssh("lena", append(mux, "-O", "exit")...)
	})
}

// The node does not keep what flows through a session in memory.
func TestAGigabyteThroughASessionLeavesTheNodeSmall(t *testing.T) {
	h := newSessionFixture(t, func(h *harness.AccountFixture) { h.Add("lena") }, "lena")
	const size, maxMemory = 1 << 30, 25 << 10 // bytes, and kB
	const script = "wc -c; head -c 1000 /dev/zero; echo apart >&2"
	args := []string{"-F", h.cfg, "-o", "BatchMode=yes", h.target("lena"), script}
	r := harness.Run(t, h.c.Env, zeros(size), "ssh", args...)
	want := fmt.Sprintf("%d\n", size) + strings.Repeat("\x00", 1000)
	if r.Stdout != want || !strings.Contains(r.Stderr, "apart") {
		const format = "got %d bytes that begin with %.20q, want the count of %d and 1000 zeroes"
		t.Errorf(format, len(r.Stdout), r.Stdout, size)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.node.Process.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatalf("got %s, want VmHWM", status)
	}
	if kb, _ := strconv.Atoi(string(peak[1])); kb > maxMemory {
		t.Errorf("got a peak of %d kB, want at most %d", kb, maxMemory)
	} else {
		t.Logf("the node's peak: %d kB", kb)
	}
}
