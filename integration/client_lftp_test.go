//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// lftpStory mirrors a folder over sftp.
func lftpStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	e.Supports(t, "mirrors 500 files both ways over sftp", func(t *testing.T) {
		dir := t.TempDir()
		from, back := filepath.Join(dir, "from"), filepath.Join(dir, "back")
		smallFiles(t, from, 500)
		script := fmt.Sprintf("set sftp:connect-program 'ssh -a -x -F %s'; ", o.config) +
			fmt.Sprintf("open sftp://%s:@%s; ", o.account.Username, o.nodes[0]) +
			fmt.Sprintf("mirror -R %s lftp; mirror lftp %s; bye", from, back)
		harness.Run(t, append(o.client.Env, "HOME="+dir), nil, "lftp", "-e", script).OK(t)
		sameTree(t, from, back)
	}, harness.Certificate, harness.SFTP, harness.ByCommand)
}
