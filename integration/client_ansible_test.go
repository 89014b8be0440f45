//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// playbook uses the most common modules. Its parameters are gather_facts and the folder for fetched files.
const playbook = `
- hosts: all_nodes
  gather_facts: %s
  tasks:
    - ping:
    - copy: {src: random, dest: "~/ansible-random-{{ inventory_hostname }}", mode: "0640"}
    - template: {src: greeting.j2, dest: "~/ansible-greeting-{{ inventory_hostname }}"}
    - shell: whoami; echo warning >&2
      register: who
    - assert: {that: ["who.stdout == ansible_user", "who.stderr == 'warning'"]}
    - shell: echo slept
      async: 30
      poll: 1
      register: slept
    - assert: {that: "slept.stdout == 'slept'"}
    - fetch: {src: "~/ansible-greeting-{{ inventory_hostname }}", dest: "fetched-%s/"}
    - command: "false"
      register: failed
      ignore_errors: true
    - assert: {that: "failed.rc == 1"}
`

// ansibleStory runs a playbook on five hosts, which are two nodes.
func ansibleStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	dir := t.TempDir()
	var inventory strings.Builder
	inventory.WriteString("[all_nodes]\n")
	for i, name := range []string{"one", "two", "three", "four", "five"} {
		fmt.Fprintf(&inventory, "%s ansible_host=%s\n", name, o.nodes[i%len(o.nodes)])
	}
	fmt.Fprintf(&inventory, "[all_nodes:vars]\nansible_user=%s\n", o.account.Username)
	fmt.Fprintf(&inventory, "ansible_ssh_common_args=-F %s\n", o.config)
	fmt.Fprintf(&inventory, "ansible_python_interpreter=%s\n", python)
	harness.WriteFile(t, dir, "inventory", inventory.String())
	harness.WriteFile(t, dir, "greeting.j2", "hello from {{ inventory_hostname }}\n")
	data := writeRandomFile(t, filepath.Join(dir, "random"), 1<<20)
	play := func(t *testing.T, name, facts string, settings ...string) {
		t.Helper()
		file := harness.WriteFile(t, dir, name+".yml", fmt.Sprintf(playbook, facts, name))
		env := slices.Concat(o.client.Env, []string{
			"HOME=" + dir,
			"ANSIBLE_FORKS=5",
			"ANSIBLE_LOCAL_TEMP=" + dir + "/tmp",
			"ANSIBLE_SSH_CONTROL_PATH_DIR=" + sharedDir(t), // a short path, for sockets
		}, settings)
		r := harness.Run(t, env, nil, "ansible-playbook", "-i", filepath.Join(dir, "inventory"), file)
		if r.Code != 0 {
			t.Fatalf("got %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		for _, host := range []string{"one", "two", "three", "four", "five"} {
			wantFile(t, o.home("ansible-random-"+host), data)
			fetched := filepath.Join(dir, "fetched-"+name, host, o.home("ansible-greeting-"+host))
			got, err := os.ReadFile(fetched)
			if err != nil || string(got) != "hello from "+host+"\n" {
				t.Errorf("%s: got %q, %v, want the greeting fetched", host, got, err)
			}
		}
	}
	const what = "ping, copy, template, shell, async, fetch and a failing command on 5 hosts; ControlPersist"
	e.Supports(t, what, func(t *testing.T) {
		play(t, "stock", "false", "ANSIBLE_SSH_ARGS=-C -o ControlMaster=auto -o ControlPersist=5s")
	}, harness.Certificate, harness.Exec, harness.SFTP, harness.Shared, harness.ByCommand)
	e.Supports(t, "the same with pipelining, facts, and scp for files", func(t *testing.T) {
		settings := []string{
			"ANSIBLE_PIPELINING=True",
			"ANSIBLE_SSH_TRANSFER_METHOD=scp",
			"ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=5s",
		}
		play(t, "piped", "true", settings...)
	}, harness.SCP)
	e.AddNote(
		"It needs only an inventory of `NODE.CLUSTER` names and the configuration that `tsh config`\n" +
			"prints.",
	)
}
