package tsh

import (
	"context"
	"os/exec"
	"runtime"
	"time"
)

const openTime = 5 * time.Second

// openBrowser hands the address to the desktop. The launchers return once they have passed it on; where there
// is no desktop, some wait for a text browser to end, which openTime bounds.
func openBrowser(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	name := "xdg-open"
	if runtime.GOOS == "darwin" {
		name = "open"
	}
	return exec.CommandContext(ctx, name, url).Run()
}
