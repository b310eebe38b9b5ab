/** Draws scenes beside the page's own thread. */
import { tiles, type Tiles } from './noise';
import { render, type Scene, type Stock } from './scene';
import { answer } from './calls';

let noise: Tiles | null = null;
let stock: Stock;

answer({
  begin: (given: Stock) => {
    stock = given;
    noise ??= tiles();
  },
  paint: ({ scene, side }: { scene: Scene; side: number }) => render(scene, stock, noise!, side),
});
