// Package integration drives the real programs, OpenSSH and a browser, one file for each story that a user
// would tell. The stories have the build tag integration; run them with make integration.
package integration
