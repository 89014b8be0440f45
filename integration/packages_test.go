//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// The Debian packages install, upgrade and remove with dpkg, in a container over this machine's files, and
// leave nothing behind.
func TestDebianPackagesAreInstalledUpgradedAndRemoved(t *testing.T) {
	debs := harness.Packages(t, "v1.2.3", runtime.GOARCH)
	container := harness.NewContainer(t, "machine")
	before := inventory(t, container)
	for name, file := range debs {
		deb, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		container.Put("/root/"+name+".deb", deb, 0o644)
	}
	container.Run("dpkg", "-i",
		"/root/threshold.deb", "/root/threshold-node.deb", "/root/threshold-tsh.deb").OK(t)

	t.Run("every file has its path, owner and mode", func(t *testing.T) {
		for name, want := range map[string]string{
			"/usr/bin/threshold":                             "755 root:root",
			"/usr/bin/threshold-node":                        "755 root:root",
			"/usr/bin/tsh":                                   "755 root:root",
			"/usr/lib/systemd/system/threshold.service":      "644 root:root",
			"/usr/lib/systemd/system/threshold-node.service": "644 root:root",
			"/etc/threshold/threshold.yaml":                  "644 root:root",
			"/etc/threshold/node.yaml":                       "644 root:root",
			"/etc/threshold/seal":                            "700 threshold:threshold",
			"/var/lib/threshold":                             "700 threshold:threshold",
			"/usr/share/doc/threshold/install.md":            "644 root:root",
			"/usr/share/bash-completion/completions/tsh":     "644 root:root",
			"/usr/share/zsh/vendor-completions/_tsh":         "644 root:root",
			"/usr/share/fish/vendor_completions.d/tsh.fish":  "644 root:root",
			"/usr/share/doc/threshold-node/copyright":        "644 root:root",
			"/usr/share/doc/threshold/examples/cluster.yaml": "644 root:root",
			"/usr/lib/sysusers.d/threshold.conf":             "644 root:root",
		} {
			if got := strings.TrimSpace(container.Run("stat", "-c", "%a %U:%G", name).OK(t)); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
		for _, program := range []string{"threshold", "threshold-node", "tsh"} {
			if got := container.Run(program, "version").OK(t); !strings.Contains(got, "v1.2.3") {
				t.Errorf("%s: got %q, want its version", program, got)
			}
		}
		complete := "source /usr/share/bash-completion/completions/tsh && complete -p tsh"
		if got := container.Run("bash", "-c", complete).OK(t); !strings.Contains(got, "tsh") {
			t.Errorf("got %q, want completion for tsh", got)
		}
	})
	t.Run("the example files are valid", func(t *testing.T) {
		const example = "/usr/share/doc/threshold/examples/cluster.yaml"
		container.Run("threshold", "check", "--bootstrap", example).OK(t)
		container.Run("threshold-node", "--check").OK(t)
	})
	t.Run("systemd accepts the units", func(t *testing.T) { checkUnits(t, container) })
	t.Run("an upgrade keeps what was changed in /etc", func(t *testing.T) {
		change := "echo '# mine' >>/etc/threshold/node.yaml; touch /etc/threshold/seal/seal.key"
		container.Run("sh", "-c", change).OK(t)
		file := harness.Packages(t, "v1.2.4", runtime.GOARCH, "threshold-node")["threshold-node"]
		newer, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		container.Put("/root/newer.deb", newer, 0o644)
		container.Run("dpkg", "-i", "/root/newer.deb", "/root/threshold.deb").OK(t)
		if got := container.Run("threshold-node", "version").OK(t); !strings.Contains(got, "v1.2.4") {
			t.Errorf("got %q, want the newer program", got)
		}
		if got := container.Run("cat", "/etc/threshold/node.yaml").OK(t); !strings.Contains(got, "# mine") {
			t.Errorf("got %q, want the line that was added", got)
		}
		container.Run("test", "-e", "/etc/threshold/seal/seal.key").OK(t)
	})
	t.Run("removal keeps data and configuration, and purging keeps the cluster", func(t *testing.T) {
		container.Run("sh", "-c", "mkdir -p /var/lib/threshold/auth /var/lib/threshold-node").OK(t)
		container.Run("dpkg", "-r", "threshold", "threshold-node", "threshold-tsh").OK(t)
		kept := []string{"/etc/threshold/seal/seal.key", "/var/lib/threshold/auth"}
		ls := append([]string{"ls", "/etc/threshold/node.yaml", "/var/lib/threshold-node"}, kept...)
		container.Run(ls...).OK(t)
		purged := container.Run("dpkg", "-P", "threshold", "threshold-node", "threshold-tsh")
		purged.OK(t)
		remove := "rm -r /var/lib/threshold /etc/threshold/seal && userdel threshold"
		if !strings.Contains(purged.Stderr, remove) {
			t.Errorf("got %q, want the command that removes the cluster: %s", purged.Stderr, remove)
		}
		container.Run(append([]string{"ls"}, kept...)...).OK(t)
		if got := container.Run("stat", "-c", "%U", "/var/lib/threshold").OK(t); got != "threshold\n" {
			t.Errorf("got owner %q, want the account still there", got)
		}
		container.Run("sh", "-c", remove).OK(t)
		container.Run("sh", "-c", "rmdir --ignore-fail-on-non-empty /etc/threshold").OK(t)
		wantNothingLeft(t, container, before)
	})
	t.Run("purging without a cluster leaves nothing", func(t *testing.T) {
		container.Run("dpkg", "-i", "/root/threshold.deb").OK(t)
		container.Run("dpkg", "-P", "threshold").OK(t)
		wantNothingLeft(t, container, before)
	})
}

func wantNothingLeft(t *testing.T, container *harness.Container, before map[string]bool) {
	t.Helper()
	for name := range inventory(t, container) {
		if !before[name] {
			t.Errorf("%s is left", name)
		}
	}
	if got := container.Run("getent", "passwd", "threshold"); got.Code == 0 {
		t.Errorf("got %q, want the account gone", got.Stdout)
	}
}

// inherited are prefixes of unit settings which processes inherit: in the agent's unit they would hold for
// the sessions of users.
var inherited = []string{
	"Protect", "Private", "NoNewPrivileges", "Restrict", "SystemCall", "Capability", "Read", "Inaccessible",
	"LimitCORE", "LimitNOFILE", "OOMScore", "MemoryDeny", "UMask", "Nice",
}

// checkUnits lets systemd itself check the installed units.
func checkUnits(t *testing.T, container *harness.Container) {
	t.Helper()
	const server = "/usr/lib/systemd/system/threshold.service"
	const agent = "/usr/lib/systemd/system/threshold-node.service"
	out := container.Run("systemd-analyze", "verify", "--man=no", server, agent)
	if out.Code != 0 || strings.Contains(out.Stderr, "threshold") {
		t.Errorf("got %+v, want no complaint about the units", out)
	}
	// The threshold is the exposure in tenths, as systemd counts it.
	container.Run("systemd-analyze", "security", "--offline=true", "--threshold=20", server).OK(t)
	for line := range strings.Lines(container.Run("cat", agent).OK(t)) {
		for _, prefix := range inherited {
			if strings.HasPrefix(line, prefix) {
				t.Errorf("got %q in the agent's unit, which sessions would inherit", strings.TrimSpace(line))
			}
		}
	}
}

// inventory lists the files that the packages could leave behind.
func inventory(t *testing.T, container *harness.Container) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, top := range []string{"/etc", "/usr", "/var/lib"} {
		out := container.Run("find", top, "-xdev", "-iname", "*threshold*",
			"-o", "-xdev", "-path", "*completion*", "-name", "*tsh*")
		for name := range strings.Lines(out.OK(t)) {
			if name = strings.TrimSpace(name); !strings.HasPrefix(name, "/usr/local/") {
				found[name] = true
			}
		}
	}
	return found
}

// A package can be built for another CPU architecture than this machine's.
func TestPackagesAreBuiltForOtherArchitectures(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	deb := harness.Packages(t, "v1.2.3", other, "threshold-node")["threshold-node"]
	field := harness.Run(t, nil, nil, "dpkg-deb", "--field", deb, "Architecture").OK(t)
	if got := strings.TrimSpace(field); got != other {
		t.Errorf("got %s, want %s", got, other)
	}
	dir := t.TempDir()
	harness.Run(t, nil, nil, "dpkg-deb", "-x", deb, dir).OK(t)
	info, err := os.Stat(filepath.Join(dir, "usr/bin/threshold-node"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Fatalf("got %v, %v, want the program", info, err)
	}
	machine := map[string]byte{"amd64": 62, "arm64": 183}[other] // e_machine of the ELF header
	b, err := os.ReadFile(filepath.Join(dir, "usr/bin/threshold-node"))
	if err != nil || b[18] != machine {
		t.Errorf("got machine %d, %v, want %d", b[18], err, machine)
	}
}
