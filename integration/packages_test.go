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

// Real packages on a real dpkg, on a machine that is a layer over this one: they install, upgrade and go
// without a trace.
func TestDebianPackagesAreInstalledUpgradedAndRemoved(t *testing.T) {
	debs := harness.Packages(t, "v1.2.3", runtime.GOARCH)
	room := harness.NewContainer(t, "machine")
	before := inventory(t, room)
	for name, file := range debs {
		deb, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		room.Put("/root/"+name+".deb", deb, 0o644)
	}
	room.Run("dpkg", "-i", "/root/threshold.deb", "/root/threshold-node.deb", "/root/threshold-tsh.deb").OK(t)

	t.Run("every file has its place, owner and mode", func(t *testing.T) {
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
			if got := strings.TrimSpace(room.Run("stat", "-c", "%a %U:%G", name).OK(t)); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
		for _, program := range []string{"threshold", "threshold-node", "tsh"} {
			if got := room.Run(program, "version").OK(t); !strings.Contains(got, "v1.2.3") {
				t.Errorf("%s: got %q, want its version", program, got)
			}
		}
		if got := room.Run("bash", "-c", "source /usr/share/bash-completion/completions/tsh && complete -p tsh").OK(t); !strings.Contains(
			got,
			"tsh",
		) {
			t.Errorf("got %q, want completion for tsh", got)
		}
	})
	t.Run("the sample files are good", func(t *testing.T) {
		room.Run("threshold", "check", "--bootstrap", "/usr/share/doc/threshold/examples/cluster.yaml").OK(t)
		room.Run("threshold-node", "--check").OK(t)
	})
	t.Run("systemd takes the units", func(t *testing.T) { checkUnits(t, room) })
	t.Run("what was changed in /etc stays over an upgrade", func(t *testing.T) {
		room.Run("sh", "-c", "echo '# mine' >>/etc/threshold/node.yaml; touch /etc/threshold/seal/seal.key").
			OK(t)
		newer, err := os.ReadFile(
			harness.Packages(t, "v1.2.4", runtime.GOARCH, "threshold-node")["threshold-node"],
		)
		if err != nil {
			t.Fatal(err)
		}
		room.Put("/root/newer.deb", newer, 0o644)
		room.Run("dpkg", "-i", "/root/newer.deb", "/root/threshold.deb").OK(t)
		if got := room.Run("threshold-node", "version").OK(t); !strings.Contains(got, "v1.2.4") {
			t.Errorf("got %q, want the newer program", got)
		}
		if got := room.Run("cat", "/etc/threshold/node.yaml").OK(t); !strings.Contains(got, "# mine") {
			t.Errorf("got %q, want the person's own line", got)
		}
		room.Run("test", "-e", "/etc/threshold/seal/seal.key").OK(t)
	})
	t.Run("removed packages leave data and configuration, purged ones a cluster alone", func(t *testing.T) {
		room.Run("sh", "-c", "mkdir -p /var/lib/threshold/auth /var/lib/threshold-node").OK(t)
		room.Run("dpkg", "-r", "threshold", "threshold-node", "threshold-tsh").OK(t)
		room.Run("ls", "/etc/threshold/seal/seal.key", "/etc/threshold/node.yaml", "/var/lib/threshold/auth", "/var/lib/threshold-node").
			OK(t)
		purged := room.Run("dpkg", "-P", "threshold", "threshold-node", "threshold-tsh")
		purged.OK(t)
		if want := "rm -r /var/lib/threshold /etc/threshold/seal && userdel threshold"; !strings.Contains(
			purged.Stderr,
			want,
		) {
			t.Errorf("got %q, want it told how to end the cluster: %s", purged.Stderr, want)
		}
		if got := room.Run("stat", "-c", "%U", "/etc/threshold/seal/seal.key", "/var/lib/threshold/auth", "/var/lib/threshold").OK(t); !strings.HasSuffix(
			got,
			"threshold\n",
		) {
			t.Errorf("got owners %q, want the account still there", got)
		}
		room.Run("sh", "-c", "rm -r /var/lib/threshold /etc/threshold/seal && userdel threshold").OK(t)
		room.Run("sh", "-c", "rmdir --ignore-fail-on-non-empty /etc/threshold").OK(t)
		wantNothingLeft(t, room, before)
	})
	t.Run("where no cluster was, nothing is left", func(t *testing.T) {
		room.Run("dpkg", "-i", "/root/threshold.deb").OK(t)
		room.Run("dpkg", "-P", "threshold").OK(t)
		wantNothingLeft(t, room, before)
	})
}

func wantNothingLeft(t *testing.T, room *harness.Container, before map[string]bool) {
	t.Helper()
	for name := range inventory(t, room) {
		if !before[name] {
			t.Errorf("%s is left", name)
		}
	}
	if got := room.Run("getent", "passwd", "threshold"); got.Code == 0 {
		t.Errorf("got %q, want the account gone", got.Stdout)
	}
}

// checkUnits asks systemd itself, of the files as they are installed.
func checkUnits(t *testing.T, room *harness.Container) {
	if out := room.Run("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/threshold.service", "/usr/lib/systemd/system/threshold-node.service"); out.Code != 0 ||
		strings.Contains(out.Stderr, "threshold") {
		t.Errorf("got %+v, want nothing to say about the units", out)
	}
	// Exposure in tenths, as systemd counts it: the server sees nothing but its data and its port.
	room.Run("systemd-analyze", "security", "--offline=true", "--threshold=20", "/usr/lib/systemd/system/threshold.service").
		OK(t)
	// The agent's sandbox would be that of everyone who logs in.
	unit := room.Run("cat", "/usr/lib/systemd/system/threshold-node.service").OK(t)
	for line := range strings.Lines(unit) {
		for _, felt := range []string{"Protect", "Private", "NoNewPrivileges", "Restrict", "SystemCall", "Capability", "Read", "Inaccessible", "LimitCORE", "LimitNOFILE", "OOMScore", "MemoryDeny", "UMask", "Nice"} {
			if strings.HasPrefix(line, felt) {
				t.Errorf(
					"got %q in the agent's unit, which people would feel in their sessions",
					strings.TrimSpace(line),
				)
			}
		}
	}
}

// inventory is what the packages could leave behind.
func inventory(t *testing.T, room *harness.Container) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, top := range []string{"/etc", "/usr", "/var/lib"} {
		out := room.Run("find", top, "-xdev", "-iname", "*threshold*", "-o", "-xdev", "-path", "*completion*", "-name", "*tsh*").
			OK(t)
		for name := range strings.Lines(out) {
			if name = strings.TrimSpace(name); !strings.HasPrefix(name, "/usr/local/") {
				found[name] = true
			}
		}
	}
	return found
}

// A package for a machine of another make is built here, and is for that machine.
func TestPackagesAreBuiltForOtherMachines(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	deb := harness.Packages(t, "v1.2.3", other, "threshold-node")["threshold-node"]
	if got := strings.TrimSpace(harness.Run(t, nil, nil, "dpkg-deb", "--field", deb, "Architecture").OK(t)); got != other {
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
