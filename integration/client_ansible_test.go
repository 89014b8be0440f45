//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// playbook uses what playbooks use most.
const playbook = `
- hosts: smithy
  gather_facts: %s
  tasks:
    - ping:
    - copy: {src: noise, dest: "~/ansible-noise-{{ inventory_hostname }}", mode: "0640"}
    - template: {src: greeting.j2, dest: "~/ansible-greeting-{{ inventory_hostname }}"}
    - shell: whoami; echo aside >&2
      register: who
    - assert: {that: ["who.stdout == ansible_user", "who.stderr == 'aside'"]}
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

func ansibleStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	dir := t.TempDir()
	var inventory strings.Builder
	inventory.WriteString("[smithy]\n")
	for i, name := range []string{"one", "two", "three", "four", "five"} {
		fmt.Fprintf(&inventory, "%s ansible_host=%s\n", name, o.nodes[i%len(o.nodes)])
	}
	fmt.Fprintf(
		&inventory,
		"[smithy:vars]\nansible_user=%s\nansible_ssh_common_args=-F %s\nansible_python_interpreter=%s\n",
		o.account.Username,
		o.config,
		python,
	)
	harness.WriteFile(t, dir, "inventory", inventory.String())
	harness.WriteFile(t, dir, "greeting.j2", "hello from {{ inventory_hostname }}\n")
	data := writeRandomFile(t, filepath.Join(dir, "noise"), 1<<20)
	play := func(t *testing.T, name, facts string, settings ...string) {
		t.Helper()
		file := harness.WriteFile(t, dir, name+".yml", fmt.Sprintf(playbook, facts, name))
		// Control sockets have short paths. The connections that ControlPersist keeps end soon after the
		// play.
		env := append(
			[]string{
				"HOME=" + dir,
				"ANSIBLE_FORKS=5",
				"ANSIBLE_LOCAL_TEMP=" + dir + "/tmp",
				"ANSIBLE_SSH_CONTROL_PATH_DIR=" + sharedDir(t),
			},
			settings...)
		r := harness.Run(
			t,
			append(o.client.Env, env...),
			nil,
			"ansible-playbook",
			"-i",
			filepath.Join(dir, "inventory"),
			file,
		)
		if r.Code != 0 {
			t.Fatalf("got %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		for _, host := range []string{"one", "two", "three", "four", "five"} {
			wantFile(t, o.home("ansible-noise-"+host), data)
			got, err := os.ReadFile(
				filepath.Join(dir, "fetched-"+name, host, o.home("ansible-greeting-"+host)),
			)
			if err != nil || string(got) != "hello from "+host+"\n" {
				t.Errorf("%s: got %q, %v, want the greeting fetched", host, got, err)
			}
		}
	}
	e.Supports(
		t,
		"ping, copy, template, shell, async, fetch and a failing command on 5 hosts, over ControlPersist",
		func(t *testing.T) {
			play(t, "stock", "false", "ANSIBLE_SSH_ARGS=-C -o ControlMaster=auto -o ControlPersist=5s")
		},
		harness.Certificate,
		harness.Exec,
		harness.SFTP,
		harness.Shared,
		harness.ByCommand,
	)
	e.Supports(t, "the same with pipelining, facts, and scp for files", func(t *testing.T) {
		play(
			t,
			"piped",
			"true",
			"ANSIBLE_PIPELINING=True",
			"ANSIBLE_SSH_TRANSFER_METHOD=scp",
			"ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=5s",
		)
	}, harness.SCP)
	e.AddNote(
		"Nothing is special about a node: an inventory of `NODE.CLUSTER` names and the configuration of `tsh config` are enough.",
	)
}
