package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// pause is the first process of a pod: it makes the pod's root, says `ready`, and collects what others leave.
// The root holds the machine's programs and libraries, read-only, and nothing of its files.
func pause(arguments []string) {
	var plan rootPlan
	if err := json.Unmarshal([]byte(arguments[0]), &plan); err != nil {
		fail(err)
	}
	if err := makeRoot(plan); err != nil {
		fail(err)
	}
	fmt.Println("ready")
	ended := make(chan os.Signal, 16)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			var status syscall.WaitStatus
			if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "pause:", err)
	os.Exit(1)
}

func makeRoot(plan rootPlan) error {
	if err := syscall.Sethostname([]byte(plan.Name)); err != nil {
		return err
	}
	// What is mounted from here on is this pod's affair.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := syscall.Mount("pod", plan.Root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	inside := func(path string) string { return filepath.Join(plan.Root, path) }
	for _, folder := range []string{"/proc", "/dev", "/tmp", "/run", "/var", "/etc"} {
		if err := os.MkdirAll(inside(folder), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", inside("/var/run")); err != nil {
		return err
	}
	if err := syscall.Mount("proc", inside("/proc"), "proc", 0, ""); err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	for _, folder := range []string{"/tmp", "/run"} {
		if err := syscall.Mount("pod", inside(folder), "tmpfs", 0, "mode=1777"); err != nil {
			return err
		}
	}
	if err := bind("/dev", inside("/dev"), false); err != nil {
		return err
	}
	for _, folder := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/alternatives"} {
		if err := mirror(folder, inside(folder)); err != nil {
			return err
		}
	}
	files := map[string]string{
		"/etc/resolv.conf":   fmt.Sprintf("nameserver %s\nsearch %s\noptions ndots:5\n", plan.DNS, plan.Search),
		"/etc/hosts":         "127.0.0.1 localhost\n",
		"/etc/passwd":        "root:x:0:0:root:/:/bin/sh\n",
		"/etc/group":         "root:x:0:\n",
		"/etc/nsswitch.conf": "hosts: files dns\n",
	}
	for path, text := range files {
		if err := os.WriteFile(inside(path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, pair := range plan.Binds {
		if err := bind(pair[0], resolve(inside, pair[1]), false); err != nil {
			return err
		}
	}
	if err := syscall.Chroot(plan.Root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if plan.ReadOnly {
		return syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "mode=755")
	}
	return nil
}

// /var/run is a link to /run, which outside of the root would lead to the machine's.
func resolve(inside func(string) string, path string) string {
	if rest, is := cut(path, "/var/run/"); is {
		return inside("/run/" + rest)
	}
	return inside(path)
}

func cut(path, prefix string) (string, bool) {
	if len(path) > len(prefix) && path[:len(prefix)] == prefix {
		return path[len(prefix):], true
	}
	return path, false
}

// mirror shows a folder of the machine, or the same link.
func mirror(source, target string) error {
	found, err := os.Lstat(source)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if found.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	}
	return bind(source, target, true)
}

func bind(source, target string, readOnly bool) error {
	found, err := os.Stat(source)
	if err != nil {
		return err
	}
	if found.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := syscall.Mount(source, target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if readOnly {
		return syscall.Mount("", target, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	return nil
}
