package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// prepareNetwork makes a node of this namespace: it forwards, and pods that leave the cluster do so under its
// address, as common networks of Kubernetes do it. Everything is inside the namespace.
func prepareNetwork(s settings) error {
	own, err := exec.Command("ip", "-o", "addr", "show", "dev", s.device).CombinedOutput()
	if err != nil || !strings.Contains(string(own), s.address+"/") {
		return fmt.Errorf("%s is no address of device %s here: not a namespace of the testbed", s.address, s.device)
	}
	rules := fmt.Sprintf(`table ip testbed {
  chain outward {
    type nat hook postrouting priority srcnat;
    oifname "%s" ip saddr %s masquerade
  }
}
`, s.device, podNetwork)
	return each(
		command("", "ip", "link", "set", "lo", "up"),
		command("1", "tee", "/proc/sys/net/ipv4/ip_forward"),
		command("1", "tee", "/proc/sys/net/ipv6/conf/all/forwarding"),
		command(rules, "nft", "-f", "-"),
	)
}

// connectPod gives a pod's namespace its address. The node's end of every cable has the same address; what
// leads to a pod is a route of its own.
func connectPod(pid int, device, address string) error {
	target := fmt.Sprint(pid)
	inside := func(words ...string) func() error {
		return command("", append([]string{"nsenter", "-t", target, "-n", "ip"}, words...)...)
	}
	address6 := sixOf(address)
	return each(
		command("", "ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", target),
		command("", "ip", "addr", "add", podGateway+"/32", "dev", device),
		command("", "ip", "link", "set", device, "up"),
		command("", "ip", "route", "add", address+"/32", "dev", device),
		command("", "ip", "addr", "add", podGateway6+"/128", "dev", device, "nodad"),
		command("", "ip", "route", "add", address6+"/128", "dev", device),
		inside("link", "set", "lo", "up"),
		inside("addr", "add", address+"/32", "dev", "eth0"),
		inside("link", "set", "eth0", "up"),
		inside("route", "add", podGateway, "dev", "eth0"),
		inside("route", "add", "default", "via", podGateway),
		inside("addr", "add", address6+"/128", "dev", "eth0", "nodad"),
		inside("route", "add", podGateway6, "dev", "eth0"),
		inside("-6", "route", "add", "default", "via", podGateway6),
	)
}

// sixOf is a pod's IPv6 address, which has its IPv4 address in it. It leads nowhere outside of the cluster.
func sixOf(address string) string {
	return podPrefix6 + address
}

func each(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func command(input string, words ...string) func() error {
	return func() error {
		child := exec.Command(words[0], words[1:]...)
		child.Stdin = strings.NewReader(input)
		if output, err := child.CombinedOutput(); err != nil {
			return fmt.Errorf("`%s`: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(output)))
		}
		return nil
	}
}
