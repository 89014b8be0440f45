//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// gitStory clones, pushes and pulls over ssh.
func gitStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	dir := t.TempDir()
	env := append(
		o.client.Env,
		"GIT_SSH_COMMAND="+o.sshCommand(),
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a",
		"GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a",
		"GIT_COMMITTER_EMAIL=a@example.com",
	)
	git := func(t *testing.T, args ...string) string {
		t.Helper()
		return harness.Run(t, env, nil, "git", append([]string{"-C", dir}, args...)...).OK(t)
	}
	o.run(t, "ssh", o.options(o.target(), "git init -q --bare forge.git")...).OK(t)
	work := filepath.Join(dir, "work")
	e.Supports(t, "clones, and pushes 500 files with a blob of 4 MB", func(t *testing.T) {
		git(t, "clone", "-q", o.target()+":forge.git", "work")
		smallFiles(t, filepath.Join(work, "files"), 500)
		writeRandomFile(t, filepath.Join(work, "blob"), 4<<20)
		git(t, "-C", work, "add", ".")
		git(t, "-C", work, "commit", "-q", "-m", "all")
		git(t, "-C", work, "push", "-q", "origin", "HEAD:refs/heads/main")
	}, harness.Certificate, harness.Exec, harness.ByCommand)
	e.Supports(t, "clones from an ssh:// address, and pulls later commits", func(t *testing.T) {
		git(t, "clone", "-q", "-b", "main", "ssh://"+o.target()+o.home("forge.git"), "again")
		sameTree(t, filepath.Join(work, "files"), filepath.Join(dir, "again", "files"))
		git(t, "-C", work, "commit", "-q", "--allow-empty", "-m", "more")
		git(t, "-C", work, "push", "-q", "origin", "HEAD:refs/heads/main")
		git(t, "-C", filepath.Join(dir, "again"), "pull", "-q", "--ff-only")
		out := git(t, "-C", filepath.Join(dir, "again"), "log", "--format=%s")
		if !strings.HasPrefix(out, "more\n") {
			t.Errorf("got %q, want the commit that was pushed", out)
		}
	})
	e.Supports(t, "clones through ssh -J", func(t *testing.T) {
		jump := append(env, "GIT_SSH_COMMAND="+o.sshCommand()+" -J x@"+o.Proxy)
		from := o.account.Username + "@anvil:forge.git"
		harness.Run(t, jump, nil, "git", "-C", dir, "clone", "-q", "-b", "main", from, "jumped").OK(t)
		sameTree(t, filepath.Join(work, "files"), filepath.Join(dir, "jumped", "files"))
	}, harness.ByJump)
	e.Supports(t, "reports a repository that does not exist", func(t *testing.T) {
		r := harness.Run(t, env, nil, "git", "ls-remote", o.target()+":missing.git")
		if r.Code == 0 || !strings.Contains(r.Stderr, "missing.git") {
			t.Errorf("got %+v, want the error of git on the node", r)
		}
	})
}
